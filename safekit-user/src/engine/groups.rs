//! Which rule groups a configuration has, as the farm engine wants them.

use super::farm::Group;
use crate::config::Config;

pub fn groups(config: &Config) -> Vec<Group> {
    config.groups.iter().map(|group| Group { id: group.id, share: group.share.clone() }).collect()
}

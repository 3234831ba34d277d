//! Who is at the other end of the control socket, and what that user may do: the kernel says it, not the client.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd as _;

use tokio::net::UnixStream;

use crate::types::Access;
use crate::types::journal::Actor;

/// More than Linux gives a user (NGROUPS_MAX): the kernel says how many there are, never more than that.
const GROUPS_MAX: usize = 65_536;

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) actor: Actor,
    /// None: may not even look.
    pub(super) access: Option<Access>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        let mut groups = supplementary_groups(stream)?;
        groups.push(peer.gid());
        let actor = Actor {
            uid: Some(peer.uid()),
            user: name_of(&read("/etc/passwd"), peer.uid()),
            from: peer.pid().map_or_else(|| "control socket".to_owned(), from_process),
        };
        Ok(Self { actor, access: access(peer.uid(), &groups, &read("/etc/group")) })
    }

    pub(super) fn is_root(&self) -> bool {
        self.actor.uid == Some(0)
    }
}

/// Root has every role; others what their groups in /etc/group have.
fn access(uid: u32, groups: &[u32], group_file: &str) -> Option<Access> {
    if uid == 0 {
        return Some(Access::Admin);
    }
    let known = numbers(group_file);
    let member = |access: &Access| known.get(access.group()).is_some_and(|number| groups.contains(number));
    Access::ALL.into_iter().filter(member).max()
}

fn from_process(pid: i32) -> String {
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match program.trim() {
        "" => format!("control socket, process {pid}"),
        program => format!("control socket, process {pid} ({program})"),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `name:x:NUMBER:…`, as /etc/passwd and /etc/group have it (passwd(5), group(5)).
fn numbers(file: &str) -> BTreeMap<&str, u32> {
    file.lines().filter_map(numbered).collect()
}

fn numbered(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    Some((fields.next()?, fields.nth(1)?.parse().ok()?))
}

fn name_of(file: &str, number: u32) -> Option<String> {
    let found = file.lines().filter_map(numbered).find(|(_, known)| *known == number);
    found.map(|(name, _)| name.to_owned())
}

/// Groups of the process when it connected (SO_PEERGROUPS, Linux 4.13).
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` into `groups`, which has so many, and says how many it wrote.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str =
        "root:x:0:\nsafekit:x:990:\nsafekit-control:x:991:ann\nsafekit-admin:x:992:\nbroken\n";

    #[test]
    fn a_user_has_the_highest_role_of_its_groups() {
        for (uid, groups, expected) in [
            (0, &[][..], Some(Access::Admin)),
            (1000, &[], None),
            (1000, &[0, 100], None),
            (1000, &[100, 990], Some(Access::Monitor)),
            (1000, &[991], Some(Access::Control)),
            (1000, &[990, 992, 991], Some(Access::Admin)),
        ] {
            assert_eq!(access(uid, groups, GROUPS), expected, "user {uid} in {groups:?}");
        }
        assert_eq!(access(1000, &[990], "nonsense"), None, "without the groups only root may");
    }

    #[tokio::test]
    async fn the_kernel_says_who_connects() {
        let (near, _far) = UnixStream::pair().expect("two ends");
        let peer = Peer::of(&near).expect("the kernel knows");
        assert_eq!(peer.actor.uid, Some(rustix::process::geteuid().as_raw()));
        assert!(peer.actor.from.contains(&format!("process {}", std::process::id())), "{peer:?}");
        let own = rustix::process::getgroups().expect("the kernel knows");
        let own: Vec<u32> = own.into_iter().map(rustix::fs::Gid::as_raw).collect();
        assert_eq!(supplementary_groups(&near).expect("the kernel knows"), own);
    }
}

//! The section `console`: where this node answers over HTTP.

use std::net::SocketAddr;

use super::Console;
use super::decode::{Fields, Keys, text};
use super::error::{Findings, quoted};
use super::tree::Node;

pub(super) const CONSOLE: Keys = Keys { of: "`console`", known: &["listen"], later: &[] };
const HINT: &str =
    "write ADDRESS:PORT, for example 0.0.0.0:9010 or '[::]:9010' for every address of each node";

pub(super) fn console(node: &Node, findings: &mut Findings) -> Option<Console> {
    let fields = Fields::open(node, &CONSOLE, findings)?;
    let listen = fields.required("listen", "listen: 0.0.0.0:9010", findings)?;
    Some(Console { listen: address(listen, findings)? })
}

fn address(node: &Node, findings: &mut Findings) -> Option<SocketAddr> {
    let text = text(node, "`listen`", findings)?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        findings.add(node.mark, format!("{} is no address with a port", quoted(text)), HINT);
        return None;
    };
    // Port 0 would be another one after each start, and nobody would find it.
    if address.port() == 0 || address.ip().is_multicast() {
        findings.add(node.mark, format!("nobody can connect to {address}"), HINT);
        return None;
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::super::effective;
    use super::super::tests::{FARM, parsed};
    use crate::config::parse;

    #[test]
    fn an_address_of_either_family_is_read_and_shown() {
        assert_eq!(parsed(FARM).console, None);
        for listen in ["0.0.0.0:9010", "127.0.0.1:65535", "[::]:9010", "[fd00::1]:1"] {
            let config = parsed(&format!("{FARM}console: {{ listen: '{listen}' }}\n"));
            let console = config.console.as_ref().unwrap_or_else(|| panic!("{listen} is there"));
            assert_eq!(console.listen.to_string(), listen);
            assert_eq!(parsed(&effective(&config)), config);
        }
    }

    #[test]
    fn what_nobody_could_connect_to_is_refused() {
        for (section, expected) in [
            ("{ listen: '0.0.0.0' }", "is no address with a port"),
            ("{ listen: 'web1:9010' }", "is no address with a port"),
            ("{ listen: '0.0.0.0:99999' }", "is no address with a port"),
            ("{ listen: 9010 }", "instead of text"),
            ("{ listen: '0.0.0.0:0' }", "nobody can connect to"),
            ("{ listen: '224.0.0.1:9010' }", "nobody can connect to"),
            ("{}", "lacks `listen`"),
            ("{ lisen: '0.0.0.0:9010' }", "did you mean `listen`?"),
            ("0.0.0.0:9010", "instead of a mapping"),
        ] {
            let errors = parse(&format!("{FARM}console: {section}\n"), "farm.yaml").expect_err(section);
            let text = errors.to_string();
            assert!(text.contains(expected), "{section}: {text}");
        }
    }
}

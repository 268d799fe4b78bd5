//! Addresses as configuration values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A host and port to listen on or to dial: `127.0.0.1:7077`, `[::1]:7077`, `driver:7077`. Port 0 in a
/// listening address takes any free port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// An address of a host name or IP address and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// This machine alone: `127.0.0.1`.
    pub fn loopback(port: u16) -> Self {
        Self::new("127.0.0.1", port)
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self::new(self.host.clone(), port)
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let port = port.parse().ok()?;
        Some(Self::new(read_host(host)?, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A host name or IP address, without the brackets of IPv6.
fn read_host(text: &str) -> Option<&str> {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inside) = bracketed {
        inside.parse::<std::net::Ipv6Addr>().ok()?;
        return Some(inside);
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_host = !text.is_empty() && text.chars().all(valid);
    is_host.then_some(text)
}

/// Where others reach what listens elsewhere: a host, and a port where that differs too: `worker-1`, `worker-1:7078`, `[::1]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Advertised {
    host: String,
    port: Option<u16>,
}

impl Advertised {
    /// The address to dial, given the port that is listened on.
    pub fn of_port(&self, listened: u16) -> Address {
        Address::new(self.host.clone(), self.port.unwrap_or(listened))
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(host) = read_host(text) {
            let host = host.to_owned();
            return Some(Self { host, port: None });
        }
        let address = Address::read(text)?;
        // Nobody can dial port 0.
        (address.port() != 0).then_some(Self {
            host: address.host,
            port: Some(address.port),
        })
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => Address::new(self.host.clone(), port).fmt(f),
            None if self.host.contains(':') => write!(f, "[{}]", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Setting;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        assert_eq!(
            Address::parse("driver:7077"),
            Some(Address::new("driver", 7077))
        );
        assert_eq!(Address::parse("[::1]:0"), Some(Address::new("::1", 0)));
        assert_eq!(Address::new("::1", 5).to_string(), "[::1]:5");
        for bad in [
            "",
            "driver",
            ":1",
            "::1:7077",
            "a b:1",
            "a:65536",
            "http://a:1",
            "[x]:1",
        ] {
            assert!(Address::parse(bad).is_none(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn advertised_addresses_may_leave_the_port_away() {
        let of = |text: &str| Advertised::parse(text).map(|found| found.of_port(7));
        assert_eq!(of("worker-1"), Some(Address::new("worker-1", 7)));
        assert_eq!(of("worker-1:9"), Some(Address::new("worker-1", 9)));
        assert_eq!(of("[::1]"), Some(Address::new("::1", 7)));
        assert_eq!(of("[::1]:9"), Some(Address::new("::1", 9)));
        for bad in ["::1", "worker-1:", "worker-1:0", "a b", "http://a", "[x]"] {
            assert_eq!(of(bad), None, "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Address::parse(&text);
            let _ = Advertised::parse(&text);
        }

        #[test]
        fn addresses_read_back(text in "[a-z0-9.-]{1,12}:[0-9]{1,5}") {
            if let Some(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_text()), Some(address));
            }
        }

        #[test]
        fn advertised_addresses_read_back(text in "([a-z0-9.-]{1,12}|\\[::1\\])(:[0-9]{1,5})?") {
            if let Some(advertised) = Advertised::parse(&text) {
                prop_assert_eq!(Advertised::parse(&advertised.to_text()), Some(advertised));
            }
        }
    }
}

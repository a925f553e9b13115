//! Addresses of servers, as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The address of a server: `http://host:port`.
///
/// The host is a name, an IPv4 address or an IPv6 address in brackets. Parsing accepts the short
/// form `host:port` as well; port 0 is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as http://127.0.0.1:7420, found {0:?}")]
pub struct InvalidAddress(String);

/// An address that other machines can reach, where the user did not say that this is intended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is reachable from other machines, and connections are not encrypted: add --insecure if \
     you trust the network"
)]
pub struct NotLoopback(String);

impl Address {
    /// Returns the address as `host:port`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Checks that the address is a loopback address, unless the user gave `--insecure`.
    ///
    /// # Errors
    /// If the address is not a loopback address and `insecure` is false.
    pub fn check(&self, insecure: bool) -> Result<(), NotLoopback> {
        let bare_host = self.host.trim_matches(['[', ']']);
        let is_loopback =
            bare_host == "localhost" || bare_host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if is_loopback || insecure { Ok(()) } else { Err(NotLoopback(self.authority())) }
    }

    /// Parses an address; `None` if the text is not one.
    fn parse(text: &str) -> Option<Self> {
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':')?;
        // Without brackets, the end of an IPv6 address would be taken for a port.
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let has_stray_colon = host.contains(':') && !is_bracketed;
        let is_host = host.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '@'));
        if host.is_empty() || has_stray_colon || !is_host {
            return None;
        }
        match port.parse() {
            Ok(0) | Err(_) => None,
            Ok(port) => Some(Self { host: host.to_owned(), port }),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        Self::parse(text).ok_or_else(|| InvalidAddress(text.to_owned()))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn an_address_is_parsed_in_the_long_and_in_the_short_form() {
        for text in ["http://127.0.0.1:7420", "127.0.0.1:7420", "http://127.0.0.1:7420/"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), "http://127.0.0.1:7420");
        }
        let address: Address = "http://[::1]:80".parse().unwrap();
        assert_eq!(address, SocketAddr::from((Ipv6Addr::LOCALHOST, 80)).into());
    }

    #[test]
    fn a_text_that_is_not_an_address_is_refused() {
        let wrong = [
            "",
            "localhost",
            "http://:1",
            "http://host:0",
            "http://host:65536",
            "ftp://host:1",
            "::1:80",
            "ho\nst:80",
            "ho st:80",
        ];
        for text in wrong {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_not_loopback_needs_insecure() {
        for loopback in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert_eq!(loopback.parse::<Address>().unwrap().check(false), Ok(()));
        }
        for reachable in ["http://10.0.0.4:1", "http://coordinator:1", "http://0.0.0.0:1"] {
            let address: Address = reachable.parse().unwrap();
            assert!(address.check(false).is_err(), "{reachable}");
            assert_eq!(address.check(true), Ok(()));
        }
    }
}

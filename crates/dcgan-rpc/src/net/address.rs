//! Addresses of servers, as people write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// The address of a server: `http://host:port`.
///
/// The host is a name, an IPv4 address or an IPv6 address. Parsing accepts the short form
/// `host:port` as well, and an IPv6 address without its brackets, as Kubernetes fills it in; port 0
/// is refused.
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
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = host.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '@'));
        if host.is_empty() || !is_host {
            return None;
        }
        let host = match host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) if host.contains(':') && !is_bracketed => return None,
            Err(_) => host.to_owned(),
        };
        match port.parse() {
            Ok(0) | Err(_) => None,
            Ok(port) => Some(Self { host, port }),
        }
    }

    /// The address at which others reach a server that listens there: one that listens on all
    /// interfaces is at this machine's own address, as far as the system tells one.
    pub fn of_server(listening: SocketAddr) -> Self {
        let mut address = listening;
        if listening.ip().is_unspecified() {
            address.set_ip(Self::way_out(listening).unwrap_or_else(|_| loopback(listening)));
        }
        address.into()
    }

    /// The address of this machine, of the same family, from which it reaches others.
    pub(crate) fn way_out(family: SocketAddr) -> io::Result<IpAddr> {
        // Two addresses for documentation, which nobody has: the way to them is the way out.
        interface_to(match family {
            SocketAddr::V4(_) => "192.0.2.1:9",
            SocketAddr::V6(_) => "[2001:db8::1]:9",
        })
    }

    /// The address at which processes of this machine reach a server that listens there.
    pub fn on_this_machine(listening: SocketAddr) -> Self {
        let mut address = listening;
        // Nobody can connect to "all interfaces".
        if listening.ip().is_unspecified() {
            address.set_ip(loopback(listening));
        }
        address.into()
    }
}

/// Returns the address of the interface through which this machine reaches a server.
///
/// Connecting a UDP socket sends nothing: the operating system only chooses the interface.
///
/// # Errors
/// If the server's name does not resolve, or no interface leads there.
pub fn interface_to(server: &str) -> io::Result<IpAddr> {
    let ipv4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if ipv4.connect(server).is_ok() {
        return Ok(ipv4.local_addr()?.ip());
    }
    let ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    ipv6.connect(server)?;
    Ok(ipv6.local_addr()?.ip())
}

fn loopback(listening: SocketAddr) -> IpAddr {
    match listening {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// An address to listen on, as people write it: `10.0.0.4:7420`, `localhost:7420`, `[::]:7420` or
/// `:::7420`, `:7420` for all interfaces, `7420` for this machine alone. Port 0 takes a free port.
///
/// A name stays one until [`ListenAddress::resolve`]: to read a setting needs no network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ListenAddress(Address);

/// A name to listen on that has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name {name} has no address here: {why}")]
pub struct NoAddress {
    name: String,
    why: io::Error,
}

impl ListenAddress {
    /// Checks like [`Address::check`].
    ///
    /// # Errors
    /// If the address is not a loopback address and `insecure` is false.
    pub fn check(&self, insecure: bool) -> Result<(), NotLoopback> {
        self.0.check(insecure)
    }

    /// Finds the address that the name has now.
    ///
    /// # Errors
    /// If it has none.
    pub fn resolve(&self) -> Result<SocketAddr, NoAddress> {
        let none = |why| NoAddress { name: self.0.host.clone(), why };
        let mut known = self.0.authority().to_socket_addrs().map_err(none)?;
        let first = known.clone().next();
        let found = known.find(SocketAddr::is_ipv4).or(first);
        found.ok_or_else(|| none(io::ErrorKind::NotFound.into()))
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("expected an address such as 127.0.0.1:7420 or localhost:7420, found {text:?}")
        };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("127.0.0.1", text),
        };
        let port: u16 = port.parse().map_err(|_| expected())?;
        let host = match host {
            "" => "0.0.0.0",
            host => host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self(SocketAddr::new(ip, port).into()));
        }
        if host.contains(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')) {
            return Err(expected());
        }
        Ok(Self(Address { host: host.to_owned(), port }))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.authority())
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
            "ho\nst:80",
            "ho st:80",
        ];
        for text in wrong {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_needs_no_brackets() {
        for (text, authority) in [
            ("fd00::5:7423", "[fd00::5]:7423"),
            ("http://::1:80", "[::1]:80"),
            ("[fd00::5]:7423", "[fd00::5]:7423"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().authority(), authority);
        }
    }

    #[test]
    fn an_address_to_listen_on_has_many_forms() {
        for (text, address) in [
            ("10.0.0.4:7420", "10.0.0.4:7420"),
            ("localhost:7420", "127.0.0.1:7420"),
            ("[::]:7420", "[::]:7420"),
            ("::1:7420", "[::1]:7420"),
            (":7420", "0.0.0.0:7420"),
            ("7420", "127.0.0.1:7420"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            let parsed: ListenAddress = text.parse().unwrap();
            assert_eq!(parsed.resolve().unwrap().to_string(), address, "{text}");
            assert_eq!(parsed.to_string().parse::<ListenAddress>().unwrap(), parsed);
        }
        for wrong in
            ["", "localhost", "127.0.0.1:", "127.0.0.1:65536", "http://127.0.0.1:1", "a b:1"]
        {
            let error = wrong.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("127.0.0.1:7420"), "{wrong}: {error}");
        }
        // It is a name, whether or not anybody has it.
        let unknown: ListenAddress = "no-such-host.invalid:7420".parse().unwrap();
        assert!(unknown.check(false).is_err() && unknown.check(true).is_ok());
        let error = unknown.resolve().unwrap_err().to_string();
        assert!(
            error.starts_with("the name no-such-host.invalid has no address here: "),
            "{error}"
        );
    }

    #[test]
    fn the_address_of_a_server_that_listens_on_all_interfaces_can_be_connected_to() {
        for (listening, reached) in [
            ("0.0.0.0:7420", "http://127.0.0.1:7420"),
            ("[::]:7420", "http://[::1]:7420"),
            ("10.0.0.1:7420", "http://10.0.0.1:7420"),
            ("127.0.0.1:7420", "http://127.0.0.1:7420"),
        ] {
            let listening: SocketAddr = listening.parse().unwrap();
            assert_eq!(Address::on_this_machine(listening).to_string(), reached);
            let told = Address::of_server(listening).to_string();
            assert!(!told.contains("0.0.0.0") && !told.contains("[::]"), "{told}");
            assert!(listening.ip().is_unspecified() || told == reached);
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

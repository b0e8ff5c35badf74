//! The address of `--listen`: written as people write it, resolved once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Reads ADDRESS:PORT, NAME:PORT, :PORT or PORT. Without an address it is 127.0.0.1, so that nothing is open
/// to others unless it was asked for; of a name's addresses, the first of IPv4 is taken, else the first.
///
/// # Errors
/// A message that shows the forms, names the largest port, or says that the name has no address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = || {
        "write ADDRESS:PORT, such as 127.0.0.1:3000, localhost:3000, 0.0.0.0:3000 or [::1]:3000, or \
         only a port"
            .to_owned()
    };
    let port = |text: &str| match text.parse::<u128>() {
        Ok(number) => u16::try_from(number).map_err(|_| format!("ports end at {}", u16::MAX)),
        Err(_) => Err(wrong()),
    };
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match text.rsplit_once(':') {
        None => port(text).map(local),
        Some(("", text)) => port(text).map(local),
        // An address of IPv6 needs brackets before its port.
        Some((name, _)) if name.contains(':') => Err(wrong()),
        Some(("*", _)) => Err("for all addresses write 0.0.0.0:PORT, or [::]:PORT".to_owned()),
        Some((name, text)) => {
            let port = port(text)?;
            let found = (name, port).to_socket_addrs();
            let found = found.map_err(|error| format!("{name:?} has no address: {error}"))?;
            let found: Vec<SocketAddr> = found.collect();
            let first = found.iter().find(|address| matches!(address.ip(), IpAddr::V4(_)));
            first.or(found.first()).copied().ok_or_else(|| format!("{name:?} has no address"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("localhost:3000", "127.0.0.1:3000"),
            (":3000", "127.0.0.1:3000"),
            ("3000", "127.0.0.1:3000"),
            ("0", "127.0.0.1:0"),
        ] {
            assert_eq!(
                address(text).map(|found| found.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_address_gets_the_forms() {
        for text in
            ["", ":", "localhost", "localhost:", "::1", "::1:3000", "127.0.0.1", "1:2:3", ":-1"]
        {
            let error = address(text).unwrap_err();
            assert!(error.contains("only a port"), "{text}: {error}");
        }
        for text in ["70000", "127.0.0.1:99999"] {
            assert_eq!(address(text), Err("ports end at 65535".to_owned()), "{text}");
        }
        assert!(address("*:3000").unwrap_err().contains("0.0.0.0:PORT"));
    }
}

//! Who may ask: the checks that come before every request is looked at.
//!
//! - A page of another site must not use the server of whoever looks at it. Its requests name that
//!   site as their origin; and if its name has been made to lead here (DNS rebinding), as the host.
//! - With a token, everything but the page and the sign of life needs it. It is compared in constant
//!   time.

use crate::Options;
use crate::refusal::{Answer, Refusal};
use anyid_runtime::{Error, Result};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// Fewest characters of a token.
const SHORTEST: usize = 16;

/// The rules of a server.
pub struct Guard {
    /// SHA-256 of the token.
    token: Option<[u8; 32]>,
    /// Names in lower case.
    hosts: Vec<String>,
    /// Whether only this machine can reach it.
    loopback: bool,
}

impl Guard {
    /// The rules that `options` ask for.
    ///
    /// # Errors
    /// E1403 without a token where one is needed, and for one that is too short or holds what no
    /// header can.
    pub fn new(options: &Options) -> Result<Self> {
        let loopback = options.listen.ip().is_loopback();
        let token = options.token.as_deref();
        if token.is_none() && !loopback {
            return Err(Error::input("E1403", "without a token, everybody could use this server")
                .at(format!("--listen {}", options.listen))
                .help(
                    "put one into a file and name it: --token-file FILE; or listen on 127.0.0.1 \
                     alone",
                ));
        }
        if let Some(token) = token {
            let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
            if token.len() < SHORTEST || !plain {
                let what = format!(
                    "a token has {SHORTEST} characters at least: letters, digits and signs, \
                     without spaces"
                );
                return Err(
                    Error::input("E1403", what).help("such as that of: openssl rand -hex 32")
                );
            }
        }
        let hosts = options.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Self { token: token.map(digest), hosts, loopback })
    }

    /// Whether a token is needed.
    pub fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// Lets a request in, or says why not.
    ///
    /// # Errors
    /// E1405 for a foreign host or origin, E1404 without the token.
    pub fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Answer<()> {
        let host = only(headers, &header::HOST).unwrap_or_default();
        let foreign = |what: String| Refusal::new(StatusCode::FORBIDDEN, "E1405", what);
        let targets = uri.authority().map(|authority| authority.as_str());
        for target in std::iter::once(host).chain(targets) {
            if !self.knows(name_of(target)) {
                let shown: String = target.chars().take(80).collect();
                return Err(foreign(format!("this server is not called {shown:?}"))
                    .help("whoever runs it can give it this name: --allow-host NAME"));
            }
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = only(headers, &header::ORIGIN).unwrap_or_default();
            let site = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            if !site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
                let shown: String = origin.chars().take(80).collect();
                return Err(foreign(format!("pages of {shown:?} may not use this server")));
            }
        }
        let of = |name: &'static str| only(headers, &HeaderName::from_static(name));
        if of("sec-fetch-site") == Some("cross-site") && of("sec-fetch-mode") != Some("navigate") {
            return Err(foreign("pages of other sites may not use this server".into()));
        }
        let Some(token) = self.token.filter(|_| uri.path().starts_with("/v1")) else {
            return Ok(());
        };
        let given = only(headers, &header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        // Of what was given, nothing but the digest is compared, and all of that.
        let same = given.map(digest).is_some_and(|given| {
            given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
        });
        match same {
            true => Ok(()),
            false => {
                let what = match given {
                    Some(_) => "the token is not that of this server",
                    None => "this server asks for a token",
                };
                Err(Refusal::new(StatusCode::UNAUTHORIZED, "E1404", what)
                    .help("send it with the request: Authorization: Bearer TOKEN"))
            }
        }
    }

    /// Whether this is one of the server's names.
    fn knows(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if let Ok(address) = name.parse::<IpAddr>() {
            // No name has to be looked up for an address, so it leads nowhere else.
            return !self.loopback || address.is_loopback() || self.hosts.contains(&name);
        }
        name == "localhost" || self.hosts.contains(&name)
    }
}

/// The value of a header that is there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    all.next().is_none().then(|| first.to_str().ok())?
}

/// The name in `name:port` or `[address]:port`.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Making};

    const TOKEN: &str = "0123456789abcdef";

    fn options(listen: &str, token: Option<&str>) -> Options {
        Options {
            listen: listen.parse().unwrap(),
            queue: "queue".into(),
            token: token.map(str::to_owned),
            hosts: vec!["Videos.Example".into()],
            model: "built-in".into(),
            allow_ffmpeg: false,
            limits: Limits::default(),
            threads: 1,
            making: Making::default(),
        }
    }

    /// The code of the refusal of a request with these headers, empty if it is let in.
    fn asked(guard: &Guard, uri: &str, list: &[(&'static str, &str)]) -> &'static str {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        guard.admit(&uri.parse().unwrap(), &headers).err().map_or("", |refusal| refusal.code())
    }

    #[test]
    fn foreign_hosts_and_origins_are_refused() {
        let local = Guard::new(&options("127.0.0.1:8787", None)).unwrap();
        for (host, code) in [
            ("127.0.0.1:8787", ""),
            ("127.0.0.2", ""),
            ("[::1]:8787", ""),
            ("LOCALHOST:1", ""),
            ("videos.example:443", ""),
            ("evil.example:8787", "E1405"),
            ("localhost.evil.example", "E1405"),
            ("192.168.0.5:8787", "E1405"),
            ("[::1", "E1405"),
            ("", "E1405"),
        ] {
            assert_eq!(asked(&local, "/v1/videos", &[("host", host)]), code, "{host}");
        }
        assert_eq!(asked(&local, "/v1/videos", &[]), "E1405");
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(asked(&local, "/", &twice), "E1405");
        assert_eq!(asked(&local, "http://evil.example/", &[("host", "localhost")]), "E1405");
        for (origin, code) in [
            ("http://localhost:1", ""),
            ("https://localhost:1", ""),
            ("http://localhost:2", "E1405"),
            ("http://evil.example", "E1405"),
            ("null", "E1405"),
            ("file://localhost:1", "E1405"),
        ] {
            let headers = [("host", "localhost:1"), ("origin", origin)];
            assert_eq!(asked(&local, "/v1/videos", &headers), code, "{origin}");
        }
        let cross = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(asked(&local, "/v1/videos", &cross), "E1405");
        let link = [cross[0], cross[1], ("sec-fetch-mode", "navigate")];
        assert_eq!(asked(&local, "/", &link), "");
        let open = Guard::new(&options("0.0.0.0:8787", Some(TOKEN))).unwrap();
        assert_eq!(asked(&open, "/", &[("host", "192.168.0.5:8787")]), "");
        assert_eq!(asked(&open, "/", &[("host", "evil.example")]), "E1405");
    }

    #[test]
    fn everything_but_the_page_needs_the_token() {
        let guard = Guard::new(&options("127.0.0.1:0", Some(TOKEN))).unwrap();
        let host = ("host", "localhost");
        for (value, code) in [
            ("Bearer 0123456789abcdef", ""),
            ("bearer  0123456789abcdef", ""),
            ("Bearer 0123456789abcdeF", "E1404"),
            ("Bearer 0123456789abcde", "E1404"),
            ("Bearer ", "E1404"),
            ("Basic 0123456789abcdef", "E1404"),
            ("0123456789abcdef", "E1404"),
        ] {
            assert_eq!(asked(&guard, "/v1/videos", &[host, ("authorization", value)]), code);
        }
        assert_eq!(asked(&guard, "/v1/videos", &[host]), "E1404");
        assert_eq!(asked(&guard, "/", &[host]), "");
    }

    #[test]
    fn a_server_that_others_reach_has_a_token_worth_the_name() {
        for listen in ["0.0.0.0:1", "[::]:1", "192.168.0.5:1"] {
            let refused = Guard::new(&options(listen, None)).err().map(|error| error.code());
            assert_eq!(refused, Some("E1403"), "{listen}");
        }
        for token in ["", "short", "0123456789abcde f", "0123456789abcde\u{e4}"] {
            let refused = Guard::new(&options("127.0.0.1:1", Some(token))).err();
            assert_eq!(refused.map(|error| error.code()), Some("E1403"), "{token}");
        }
    }
}

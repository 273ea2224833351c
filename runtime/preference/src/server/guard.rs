//! The checks before a request is looked at: the name the server is called by, the page a change
//! comes from, and the value that only our page knows.

use super::Options;
use super::refusal::{Answer, Refusal};
use crate::random::{digest, same};
use anyid_files::{Error, Result};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use std::net::IpAddr;

/// The cookie of a session, and the one whose value a change has to repeat.
pub const SESSION: &str = "anyid_session";
pub const CSRF: &str = "anyid_csrf";
/// The header that repeats it.
const REPEATED: &str = "x-csrf";
/// Seconds that cookies are kept.
const AGE: u64 = 30 * 24 * 3600;

/// The rules of a server.
pub struct Guard {
    hosts: Vec<String>,
    loopback: bool,
    secure: bool,
}

impl Guard {
    /// The rules that `options` ask for.
    ///
    /// # Errors
    /// E1608 for an address that others reach, unless that is wanted.
    pub fn new(options: &Options) -> Result<Self> {
        let loopback = options.listen.ip().is_loopback();
        if !loopback && !options.public {
            return Err(Error::input("E1608", "others than this machine could reach this address")
                .at(format!("--listen {}", options.listen))
                .help(
                    "listen on 127.0.0.1; or, behind a proxy that speaks TLS, say that it is meant: \
                     --public",
                ));
        }
        let hosts = options.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Self { hosts, loopback, secure: options.secure })
    }

    /// Refuses requests for another host, which a name that was made to lead here would send.
    ///
    /// # Errors
    /// E1611.
    pub fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Answer<()> {
        let host = only(headers, &header::HOST).unwrap_or_default();
        let target = uri.authority().map(|authority| authority.as_str());
        for name in std::iter::once(host).chain(target) {
            if !self.knows(name_of(name)) {
                let shown: String = name.chars().take(80).collect();
                let what = format!("this server is not called {shown:?}");
                return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "E1611", what)
                    .help("whoever runs it can give it this name: --allow-host NAME"));
            }
        }
        Ok(())
    }

    /// Refuses changes that do not come from our page.
    ///
    /// # Errors
    /// E1611.
    pub fn change(&self, headers: &HeaderMap) -> Answer<()> {
        let foreign = |what: String| {
            Refusal::new(StatusCode::FORBIDDEN, "E1611", what).help("load the page again")
        };
        let host = only(headers, &header::HOST).unwrap_or_default();
        let origin = only(headers, &header::ORIGIN).unwrap_or_default();
        let site = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
        if !site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
            let shown: String = origin.chars().take(80).collect();
            return Err(foreign(format!("pages of {shown:?} may not change anything here")));
        }
        let repeated = only(headers, &HeaderName::from_static(REPEATED)).unwrap_or_default();
        let known = cookie(headers, CSRF).unwrap_or_default();
        let own = cookie(headers, SESSION).map(csrf).unwrap_or_default();
        if own.is_empty() || !same(repeated, &own) || !same(known, &own) {
            return Err(foreign("the request does not come from the page".to_owned()));
        }
        let kind = only(headers, &header::CONTENT_TYPE).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Refusal::malformed("a change is JSON: content-type: application/json"));
        }
        Ok(())
    }

    /// The cookies that begin a session.
    pub fn cookies(&self, session: &str) -> [String; 2] {
        let secure = if self.secure { "; Secure" } else { "" };
        let rest = format!("Path=/; SameSite=Strict; Max-Age={AGE}{secure}");
        [
            format!("{SESSION}={session}; HttpOnly; {rest}"),
            format!("{CSRF}={}; {rest}", csrf(session)),
        ]
    }

    fn knows(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if let Ok(address) = name.parse::<IpAddr>() {
            // No name has to be looked up for an address, so it leads nowhere else.
            return !self.loopback || address.is_loopback() || self.hosts.contains(&name);
        }
        name == "localhost" || self.hosts.contains(&name)
    }
}

/// The value that belongs to a session.
fn csrf(session: &str) -> String {
    digest(&format!("{session}/csrf"))
}

/// The value of a cookie.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| {
        let (own, value) = pair.trim().split_once('=')?;
        (own == name).then_some(value)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(listen: &str, public: bool) -> Result<Guard> {
        let options = Options::new(listen.parse().unwrap());
        Guard::new(&Options { public, hosts: vec!["Study.Example".into()], ..options })
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_own_names_are_answered() {
        let guard = guard("127.0.0.1:8788", false).unwrap();
        for (host, fine) in [
            ("127.0.0.1:8788", true),
            ("[::1]:8788", true),
            ("LOCALHOST", true),
            ("study.example:443", true),
            ("evil.example", false),
            ("localhost.evil.example:8788", false),
            ("192.168.0.5", false),
            ("", false),
        ] {
            let admitted = guard.admit(&"/".parse().unwrap(), &headers(&[("host", host)]));
            assert_eq!(admitted.err().map(|r| r.code()), (!fine).then_some("E1611"), "{host}");
        }
        let target = "http://evil.example/".parse().unwrap();
        assert!(guard.admit(&target, &headers(&[("host", "localhost")])).is_err());
    }

    #[test]
    fn changes_come_from_the_page_alone() {
        let guard = guard("127.0.0.1:0", false).unwrap();
        let value = csrf("secret");
        let cookies = format!("{SESSION}=secret; {CSRF}={value}");
        let fine = [
            ("host", "localhost:1"),
            ("origin", "http://localhost:1"),
            ("cookie", &cookies),
            ("x-csrf", &value),
            ("content-type", "application/json; charset=utf-8"),
        ];
        assert!(guard.change(&headers(&fine)).is_ok());
        let forged = format!("{SESSION}=secret; {CSRF}=guess");
        let alone = format!("{CSRF}={value}");
        for (at, wrong, code) in [
            (1, "http://localhost:2", "E1611"),
            (1, "null", "E1611"),
            (1, "", "E1611"),
            (2, forged.as_str(), "E1611"),
            (2, alone.as_str(), "E1611"),
            (3, "guess", "E1611"),
            (4, "text/plain", "E1612"),
        ] {
            let mut list = fine;
            list[at].1 = wrong;
            let refused = guard.change(&headers(&list)).unwrap_err();
            assert_eq!(refused.code(), code, "{wrong}");
        }
        for left_out in 1..4 {
            let mut list = fine.to_vec();
            list.remove(left_out);
            assert!(guard.change(&headers(&list)).is_err(), "{left_out}");
        }
    }

    #[test]
    fn an_address_for_others_has_to_be_meant() {
        for listen in ["0.0.0.0:1", "[::]:1", "192.168.0.5:1"] {
            let refused = guard(listen, false).err().map(|error| error.code());
            assert_eq!(refused, Some("E1608"), "{listen}");
            assert!(guard(listen, true).is_ok());
        }
    }
}

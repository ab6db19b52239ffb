//! Rules that say which hosts a guest may call.
//!
//! A rule is `[scheme://]host[:port]`. `scheme` is `http` or `https` (unset: both). `host` is a DNS name, an IP
//! address (IPv6 in brackets) or `*.suffix`, which covers every name below the suffix but not the suffix itself.
//! An unset port means the scheme's own: 80 for http, 443 for https. Without a rule nothing may be called.

use std::fmt;
use std::str::FromStr;

/// Scheme of an outgoing call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The port that a URL without one means.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Exact(String),
    /// Without the leading `*`, with the dot: `.example.com`.
    Below(String),
}

/// One parsed rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressRule {
    scheme: Option<Scheme>,
    host: Host,
    port: Option<u16>,
}

/// Why a rule could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "egress rule {rule:?}: {problem}; write [http://|https://]host[:port], for example api.example.com:443"
)]
pub struct InvalidRule {
    rule: String,
    problem: &'static str,
}

impl FromStr for EgressRule {
    type Err = InvalidRule;

    fn from_str(rule: &str) -> Result<Self, InvalidRule> {
        let invalid = |problem| InvalidRule {
            rule: rule.to_owned(),
            problem,
        };
        let (scheme, rest) = match rule.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(invalid("the scheme is neither http nor https")),
            None => (None, rule),
        };
        let (host, port) = split_port(rest).map_err(invalid)?;
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some(suffix) => {
                let name = suffix
                    .strip_prefix('.')
                    .ok_or_else(|| invalid("a star stands only before a dot"))?;
                if !is_dns_name(name) {
                    return Err(invalid("what follows *. is no DNS name"));
                }
                Host::Below(suffix.to_owned())
            }
            None if is_dns_name(&host) || is_bracketed_v6(&host) => Host::Exact(host),
            None => return Err(invalid("the host is no DNS name and no IP address")),
        };
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{scheme}://")?;
        }
        match &self.host {
            Host::Exact(host) => f.write_str(host)?,
            Host::Below(suffix) => write!(f, "*{suffix}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl EgressRule {
    /// Whether this rule allows a call to `host` (as in a URL, IPv6 in brackets) and `port`.
    pub fn allows(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.scheme.is_none_or(|own| own == scheme)
            && self.port.unwrap_or(scheme.default_port()) == port
            && match &self.host {
                Host::Exact(own) => own.eq_ignore_ascii_case(host),
                Host::Below(suffix) => {
                    let at = host.len().wrapping_sub(suffix.len());
                    at > 0
                        && host
                            .get(at..)
                            .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
                }
            }
    }
}

fn split_port(rest: &str) -> Result<(&str, Option<u16>), &'static str> {
    let colon = match rest.rfind(']') {
        Some(end) => rest[end..].find(':').map(|at| end + at),
        None => rest.rfind(':'),
    };
    let Some(at) = colon else {
        return Ok((rest, None));
    };
    match rest[at + 1..].parse::<u16>() {
        Ok(port) if port > 0 => Ok((&rest[..at], Some(port))),
        _ => Err("the port is no number from 1 to 65535"),
    }
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn is_bracketed_v6(host: &str) -> bool {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allows(rule: &str, scheme: Scheme, host: &str, port: u16) -> bool {
        rule.parse::<EgressRule>()
            .unwrap()
            .allows(scheme, host, port)
    }

    #[test]
    fn an_exact_host_is_matched_without_case() {
        assert!(allows(
            "api.example.com",
            Scheme::Https,
            "API.example.com",
            443
        ));
        assert!(allows(
            "api.example.com",
            Scheme::Http,
            "api.example.com.",
            80
        ));
        assert!(!allows(
            "api.example.com",
            Scheme::Https,
            "api.example.com",
            8443
        ));
        assert!(!allows(
            "api.example.com",
            Scheme::Https,
            "evil-api.example.com",
            443
        ));
        assert!(!allows(
            "api.example.com",
            Scheme::Https,
            "api.example.com.evil.org",
            443
        ));
    }

    #[test]
    fn a_scheme_and_a_port_narrow() {
        assert!(allows("https://a.b:8443", Scheme::Https, "a.b", 8443));
        assert!(!allows("https://a.b:8443", Scheme::Http, "a.b", 8443));
        assert!(!allows("https://a.b", Scheme::Http, "a.b", 80));
        assert!(allows("10.0.0.1:8080", Scheme::Http, "10.0.0.1", 8080));
        assert!(allows("[::1]:80", Scheme::Http, "[::1]", 80));
    }

    #[test]
    fn a_star_covers_names_below_only() {
        assert!(allows(
            "*.example.com",
            Scheme::Https,
            "a.b.example.com",
            443
        ));
        assert!(!allows("*.example.com", Scheme::Https, "example.com", 443));
        assert!(!allows("*.example.com", Scheme::Https, ".example.com", 443));
        assert!(!allows(
            "*.example.com",
            Scheme::Https,
            "badexample.com",
            443
        ));
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (rule, word) in [
            ("", "host"),
            ("*", "star"),
            ("a*b.com", "host"),
            ("ftp://a.b", "scheme"),
            ("a.b:0", "port"),
            ("a.b:http", "port"),
            ("a.b/path", "host"),
            ("*.", "DNS"),
            ("[::zz]:80", "host"),
        ] {
            let error = rule.parse::<EgressRule>().unwrap_err().to_string();
            assert!(error.contains(word), "{rule:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(rule in r"(https?://)?(\*\.)?[a-z][a-z0-9]{0,8}(\.[a-z]{1,5}){0,3}(:[1-9][0-9]{0,3})?") {
            let parsed: EgressRule = rule.parse().unwrap();
            prop_assert_eq!(parsed.to_string(), rule);
        }

    }

    #[test]
    fn fuzz_egress() {
        let examples = [
            "https://*.example.com:8443 api.example.com",
            "[2001:db8::1]:80 [2001:db8::1]",
            "http://10.0.0.1 x.",
        ];
        hearth_fuzz::text("fuzz_egress", &examples, |input| {
            let (rule, host) = input.split_once(' ').unwrap_or((input, ""));
            let Ok(parsed) = rule.parse::<EgressRule>() else {
                return;
            };
            // What is printed in a condition is the same rule.
            assert_eq!(parsed.to_string().parse(), Ok(parsed.clone()));
            let allowed = parsed.allows(Scheme::Https, host, 443);
            // A star covers names below its suffix only.
            let printed = parsed.to_string();
            let bare = printed
                .trim_start_matches("https://")
                .trim_end_matches(":443");
            if let Some(suffix) = bare.strip_prefix("*.").filter(|_| allowed) {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                assert!(
                    host.ends_with(&format!(".{suffix}")),
                    "{rule} allows {host}"
                );
            }
        });
    }
}

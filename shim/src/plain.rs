//! A plain container as one function: what its pod says about it. Pure.
//!
//! | where | what | unset |
//! |---|---|---|
//! | env `PORT` | port that the bundle serves on | 8080 |
//! | annotation `hearth.dev/memory` | linear memory of one instance: bytes, or with `Ki`, `Mi`, `Gi` | 64Mi |
//! | annotation `hearth.dev/deadline-ms` | wall-clock time of one call | 30000 |
//! | annotation `hearth.dev/concurrency` | calls at once | 100 |
//! | annotation `hearth.dev/warm` | warm instances | 1 |
//! | annotation `hearth.dev/egress` | hosts that may be called, separated by commas or spaces | none |

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use hearth_contract::egress::EgressRule;
use hearth_contract::function::Capabilities;
use hearth_contract::{Function, FunctionKey, Limits};

use crate::host::plan::Wanted;
use crate::prepare::Source;
use crate::spec::{Spec, annotation};

/// Port of a bundle whose pod names none.
pub const DEFAULT_PORT: u16 = 8080;

/// A value that the pod's author got wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value:?}: {problem}")]
pub struct InvalidSetting {
    name: String,
    value: String,
    problem: String,
}

/// The one function of a plain container.
pub fn wanted(id: &str, spec: &Spec, source: Source) -> Result<Wanted, InvalidSetting> {
    let named = |name, unnamed: &str| spec.annotation(name).unwrap_or(unnamed).to_owned();
    let defaults = Limits::default();
    let positive = |text: &str| {
        text.parse::<NonZeroU32>()
            .map_err(|_| "write a number above 0".to_owned())
    };
    let deadline = setting(spec, "hearth.dev/deadline-ms", positive)?
        .map_or(defaults.deadline, |ms| {
            Duration::from_millis(ms.get().into())
        });
    let limits = Limits {
        memory_bytes: setting(spec, "hearth.dev/memory", quantity)?
            .unwrap_or(defaults.memory_bytes),
        deadline,
        cpu: deadline,
        concurrency: setting(spec, "hearth.dev/concurrency", positive)?
            .unwrap_or(defaults.concurrency),
        ..defaults
    };
    let warm = |text: &str| text.parse::<u32>().map_err(|_| "write a number".to_owned());
    let egress = setting(spec, "hearth.dev/egress", rules)?.unwrap_or_default();
    let port = match spec.env_value("PORT") {
        None | Some("") => DEFAULT_PORT,
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => {
                return Err(InvalidSetting {
                    name: "environment variable PORT".to_owned(),
                    value: text.to_owned(),
                    problem: "write a number from 1 to 65535".to_owned(),
                });
            }
        },
    };
    Ok(Wanted {
        function: Function {
            key: FunctionKey {
                uid: id.to_owned(),
                namespace: named(annotation::POD_NAMESPACE, ""),
                name: named(annotation::CONTAINER_NAME, id),
            },
            generation: 0,
            limits,
            capabilities: Capabilities {
                egress,
                env: spec.guest_env(),
                args: spec.process.args.clone(),
                debug: false,
                loader: None,
            },
            target: setting(spec, "hearth.dev/warm", warm)?.unwrap_or(1),
            reuse: None,
        },
        source,
        port,
    })
}

fn setting<T>(
    spec: &Spec,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, InvalidSetting> {
    spec.annotation(name)
        .map(|value| {
            parse(value.trim()).map_err(|problem| InvalidSetting {
                name: format!("annotation {name}"),
                value: value.to_owned(),
                problem,
            })
        })
        .transpose()
}

fn quantity(text: &str) -> Result<NonZeroU64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .and_then(NonZeroU64::new)
        .ok_or_else(|| "write bytes, or a number with Ki, Mi or Gi".to_owned())
}

fn rules(text: &str) -> Result<Vec<EgressRule>, String> {
    text.split([',', ' ', '\n'])
        .filter(|rule| !rule.is_empty())
        .map(|rule| {
            rule.parse()
                .map_err(|error: hearth_contract::egress::InvalidRule| error.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(json: &str) -> Result<Wanted, InvalidSetting> {
        let source = Source::JavaScript("".into());
        wanted("c1", &serde_json::from_str(json).unwrap(), source)
    }

    /// config.json as containerd hands it over; what is in it is the pod's author's.
    #[test]
    fn fuzz_config() {
        let examples = [
            r#"{"process":{"args":["agent","x"],"env":["PORT=9000","A=b=c","PATH=/bin"],"user":{"uid":1}},"annotations":{"hearth.dev/memory":"64Mi","hearth.dev/deadline-ms":"500","hearth.dev/egress":"https://a.b, *.c.d:8443","hearth.dev/warm":"2","hearth.dev/concurrency":"7"}}"#,
            r#"{"mounts":[{"destination":"/etc/hosts","source":"/var/lib/kubelet/pods/1/etc-hosts"}],"annotations":{"io.kubernetes.cri.container-type":"sandbox"},"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/1"}],"cgroupsPath":"/kubepods/1","resources":{"memory":{"limit":-1},"cpu":{"shares":2,"quota":-1,"period":100000}}}}"#,
        ];
        hearth_fuzz::text("fuzz_config", &examples, |input| {
            let Ok(spec) = serde_json::from_str::<Spec>(input) else {
                return;
            };
            crate::spec::classify(&spec);
            spec.network_namespace();
            spec.memory_limit();
            spec.mounted(std::path::Path::new("/etc/hosts"));
            let source = Source::JavaScript("".into());
            if let Ok(wanted) = wanted("c1", &spec, source) {
                assert!(wanted.port > 0);
            }
        });
    }

    #[test]
    fn fuzz_annotations() {
        let examples = [
            "64Mi https://a.b",
            "1073741824 *.c.d:8443,[::1]:80",
            "4Gi a",
        ];
        hearth_fuzz::text("fuzz_annotations", &examples, |input| {
            let (size, hosts) = input.split_once(' ').unwrap_or((input, ""));
            let _ = quantity(size);
            if let Ok(rules) = rules(hosts) {
                let separators = hosts.matches([',', ' ', '\n']).count();
                assert!(rules.len() <= separators + 1);
            }
        });
    }

    #[test]
    fn a_bare_pod_gets_the_defaults() {
        let wanted = wanted_of(
            r#"{"process":{"args":["/app","-v"],"env":["PATH=/bin","A=1"]},
                "annotations":{"io.kubernetes.cri.container-name":"main","io.kubernetes.cri.sandbox-namespace":"n"}}"#,
        )
        .unwrap();
        assert_eq!(wanted.port, 8080);
        assert_eq!(wanted.function.limits, Limits::default());
        assert_eq!(wanted.function.key.to_string(), "n/main");
        assert_eq!(wanted.function.capabilities.args, ["/app", "-v"]);
        assert_eq!(wanted.function.capabilities.env.len(), 1);
        assert!(wanted.function.capabilities.egress.is_empty());
        assert_eq!(wanted.function.target, 1);
    }

    #[test]
    fn annotations_and_port_are_heard() {
        let wanted = wanted_of(
            r#"{"process":{"env":["PORT=9000"]},"annotations":{"hearth.dev/memory":"16Mi",
                "hearth.dev/deadline-ms":"100","hearth.dev/concurrency":"2","hearth.dev/warm":"4",
                "hearth.dev/egress":"a.example.com, https://b.example.com"}}"#,
        )
        .unwrap();
        assert_eq!(wanted.port, 9000);
        let limits = wanted.function.limits;
        assert_eq!(limits.memory_bytes.get(), 16 << 20);
        assert_eq!(limits.deadline, Duration::from_millis(100));
        assert_eq!(limits.cpu, limits.deadline);
        assert_eq!(limits.concurrency.get(), 2);
        assert_eq!(wanted.function.target, 4);
        assert_eq!(wanted.function.capabilities.egress.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, word) in [
            (r#"{"process":{"env":["PORT=http"]}}"#, "PORT"),
            (r#"{"process":{"env":["PORT=0"]}}"#, "65535"),
            (r#"{"annotations":{"hearth.dev/memory":"1M"}}"#, "Mi"),
            (r#"{"annotations":{"hearth.dev/memory":"0"}}"#, "memory"),
            (
                r#"{"annotations":{"hearth.dev/deadline-ms":"-1"}}"#,
                "deadline",
            ),
            (
                r#"{"annotations":{"hearth.dev/egress":"ftp://a"}}"#,
                "egress",
            ),
        ] {
            let error = wanted_of(json).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}

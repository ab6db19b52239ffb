//! `hearth build` and what it says.

use crate::harness::{Running, cache, hearth, make, project, stderr, stdout, write};

/// An agent of several files, a package, and modules of Node.
const AGENT: &str = r#"import { Buffer } from "node:buffer";
import { AsyncLocalStorage } from "async_hooks";
import { shout } from "loud";
import { check } from "./lib/check";

interface Env { NAME: string }
const storage = new AsyncLocalStorage<string>();

async function optional(): Promise<string> {
  try {
    return String(await import("not-installed"));
  } catch (error) {
    return (error as Error).message;
  }
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/optional") return new Response(await optional());
    if (pathname !== "/") check(pathname);
    const text = await storage.run(env.NAME, async () => (await null, storage.getStore()));
    return new Response(shout(Buffer.from(text!).toString("base64")));
  },
};
"#;

/// Its line 4 throws.
const CHECK: &str = r#"// What is wrong is thrown.

export function check(path: string): never {
  throw new RangeError(`no ${path as string}`);
}
"#;

fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("package.json", r#"{"name":"@test/sample","type":"module"}"#),
        ("src/agent.ts", AGENT),
        ("src/lib/check.ts", CHECK),
        (
            "node_modules/loud/package.json",
            r#"{"name":"loud","version":"1.0.0","main":"index.js"}"#,
        ),
        (
            "node_modules/loud/index.js",
            "exports.shout = (text) => text + '!';\nexports.unused = () => require('fs').readFileSync('a');\n",
        ),
    ]
}

#[test]
fn a_project_becomes_one_module_that_runs_and_tells_positions_of_its_sources() {
    let project = project(&files());
    let folder = project.path();
    let report = stdout(&hearth(folder, &["build", "--output", "json"]));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let names = |key: &str| -> Vec<String> {
        let modules = report[key].as_array().unwrap().iter();
        modules
            .map(|module| module["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("provided"), ["async_hooks", "buffer"], "{report}");
    assert_eq!(names("absent"), ["fs", "not-installed"], "{report}");
    assert_eq!(
        report["absent"][0]["importers"][0],
        "node_modules/loud/index.js"
    );
    let packages = names("packages");
    for package in ["the project's own", "loud", "node:buffer"] {
        assert!(packages.iter().any(|name| name == package), "{packages:?}");
    }
    let built = folder.join("dist/agent.js").metadata().unwrap().len();
    let minified = stdout(&hearth(folder, &["build", "--minify", "--out", "small"]));
    assert!(
        minified.contains("small/agent.js") && minified.contains("node_modules/loud/index.js"),
        "{minified}"
    );
    let small = folder.join("small/agent.js").metadata().unwrap().len();
    assert!(small < built * 3 / 4, "{small} of {built} bytes");

    for module in ["dist/agent.js", "small/agent.js"] {
        let agent = Running::start(folder, &["serve", module, "--env", "NAME=you"]);
        assert!(agent.get("/").ends_with("eW91!"), "{}", agent.get("/"));
        let optional = agent.get("/optional");
        assert!(
            optional.contains("not-installed is not in the bundle"),
            "{optional}"
        );
        let failed = agent.get("/wrong");
        assert!(
            failed.contains("hearth-outcome: threw") && !failed.contains("check.ts"),
            "{failed}"
        );
        let line = agent.line("RangeError: no /wrong");
        assert!(line.contains("src/lib/check.ts:4:"), "{line}");
        agent.line("src/agent.ts:21:");
    }
    // The environment was compiled once, for all that were started.
    let kept = std::fs::read_dir(cache()).unwrap().count();
    assert_eq!(kept, 1);
}

#[test]
fn what_cannot_be_bundled_is_named_with_its_file_and_line() {
    let project = project(&files());
    let folder = project.path();
    let agent = AGENT.replace(
        "import { shout }",
        "import { readFileSync } from \"node:fs\";\nimport { shout }",
    );
    let agent = agent.replace(
        "new Response(shout",
        "new Response(readFileSync(\"a\") + shout",
    );
    for (agent, words) in [
        (
            agent.as_str(),
            &["src/agent.ts:3:", "node:fs is not there", "--stub fs"][..],
        ),
        (
            "import 'left-pad';\nexport default {};",
            &["src/agent.ts:1:8: error", "left-pad"],
        ),
        (
            "import \"node:http\";\nexport default {};",
            &[
                "src/agent.ts:1:",
                "error: node:http is not there",
                "--stub http",
            ],
        ),
        (
            "import { env } from \"cloudflare:workers\";\nexport default { fetch: () => env };",
            &["src/agent.ts:1:", "it is Cloudflare's own"],
        ),
        (
            "export default {\n  fetch( { return 1 },\n};",
            &["src/agent.ts:2:", "error"],
        ),
    ] {
        write(folder, "src/agent.ts", agent);
        let output = hearth(folder, &["build"]);
        assert_eq!(output.status.code(), Some(1));
        for word in words {
            assert!(
                stderr(&output).contains(word),
                "{word}: {}",
                stderr(&output)
            );
        }
        assert!(!folder.join("dist").exists());
    }
    write(folder, "src/agent.ts", &agent);
    stdout(&hearth(folder, &["build", "--stub", "node:fs"]));
    let agent = Running::start(folder, &["serve", "dist/agent.js", "--env", "NAME=you"]);
    assert!(agent.get("/").contains("hearth-outcome: threw"));
    agent.line("node:fs is not there, so that readFileSync cannot be used");
}

#[test]
fn what_node_has_as_globals_is_there_where_code_names_it() {
    let project = project(&files());
    let folder = project.path();
    let agent = "export default {
  fetch() {
    return new Response(Buffer.from(String(process.env.NAME) + typeof process.cwd).toString('hex'));
  },
};";
    write(folder, "src/agent.ts", agent);
    let report = stdout(&hearth(folder, &["build"]));
    assert!(
        report.contains("buffer: imported by") && report.contains("process: imported by"),
        "{report}"
    );
    let serve = ["serve", "dist/agent.js", "--env", "NAME=you"];
    let agent = Running::start(folder, &serve);
    let answer = agent.get("/");
    assert!(answer.ends_with("796f7566756e6374696f6e"), "{answer}");
    // Code that names neither has neither, nor is an import that binds nothing a fault.
    write(
        folder,
        "src/agent.ts",
        "import \"node:buffer\";\nexport default { fetch: () => new Response('x') };",
    );
    let output = hearth(folder, &["build"]);
    let report = stdout(&output);
    assert!(
        !report.contains("buffer") && stderr(&output).is_empty(),
        "{report}{}",
        stderr(&output)
    );
}

#[test]
fn completion_and_help_are_there() {
    let project = project(&[]);
    let script = stdout(&hearth(project.path(), &["completion", "bash"]));
    assert!(script.contains("deploy"), "{script}");
    for command in [
        "new", "dev", "build", "serve", "push", "deploy", "invoke", "logs", "top", "doctor",
    ] {
        let help = stdout(&hearth(project.path(), &[command, "--help"]));
        assert!(help.contains("Examples:"), "{help}");
    }
    let wrong = hearth(project.path(), &["push", "Not/A/Name"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_component_in_c_is_new_made_and_answers() {
    let home = project(&[]);
    stdout(&hearth(home.path(), &["new", "tool", "--template", "c"]));
    let folder = home.path().join("tool");
    let made = make(&folder);
    assert!(made.status.success(), "{}", stderr(&made));
    let answer = Running::start(&folder, &["serve", "agent.wasm"]).get("/?name=make");
    assert!(answer.contains("Hello, make!"), "{answer}");
    let component = ["component", "new", "agent.wasm"];
    let again = stderr(&hearth(&folder, &component));
    assert!(again.contains("agent.wasm cannot be made"), "{again}");
    assert!(again.contains("a component already"), "{again}");
    let nowhere = stderr(&hearth(&folder, &["component", "bindings", "nowhere"]));
    assert!(nowhere.contains("read nowhere"), "{nowhere}");
    let unnamed = stderr(&hearth(&folder, &["component", "bindings"]));
    assert!(
        unnamed.contains("--world names one of its worlds"),
        "{unnamed}"
    );
}

//! `hearth new` and `hearth dev`: from nothing to an agent that follows its files.

use crate::harness::{Running, hearth, project, stdout, write};

#[test]
fn a_new_agent_answers_and_follows_its_files() {
    let project = project(&[]);
    stdout(&hearth(project.path(), &["new", "first"]));
    let folder = project.path().join("first");
    let agent = Running::start(&folder, &["dev"]);
    assert!(agent.get("/?name=you").ends_with("Hello, you!\n"));

    let source = std::fs::read_to_string(folder.join("src/agent.ts")).unwrap();
    write(
        &folder,
        "src/agent.ts",
        &source.replace("\"Hello\"", "GREETING").replace(
            "interface",
            "import { GREETING } from \"./words\";\n\ninterface",
        ),
    );
    agent.line("src/agent.ts:1:");
    assert!(
        agent.get("/").ends_with("Hello, world!\n"),
        "what was served goes on"
    );
    write(
        &folder,
        "src/words.ts",
        "export const GREETING: string = \"Moin\";\n",
    );
    agent.line("reloaded in");
    // The manifest says a greeting of its own.
    assert!(agent.get("/").ends_with("Hello, world!\n"));
    write(
        &folder,
        "src/words.ts",
        "export const GREETING: string = (undefined as any).x;\n",
    );
    agent.line("reloaded in");
    let failed = agent.get("/");
    assert!(
        failed.contains("TypeError") && failed.contains("src/words.ts:1:"),
        "{failed}"
    );
    write(
        &folder,
        "src/words.ts",
        "export const GREETING: string = \"Moin\";\n",
    );
    agent.line("reloaded in");
    assert!(agent.get("/").ends_with("Hello, world!\n"));

    // The manifest is followed as well.
    let manifest = std::fs::read_to_string(folder.join("agentfunction.yaml")).unwrap();
    let broken = manifest.replace("value: Hello", "valu: Hello");
    assert_ne!(broken, manifest);
    write(&folder, "agentfunction.yaml", &broken);
    agent.line("valu");
    write(
        &folder,
        "agentfunction.yaml",
        &manifest.replace("value: Hello", "value: Servus"),
    );
    agent.line("reloaded in");
    assert!(agent.get("/").ends_with("Servus, world!\n"));
}

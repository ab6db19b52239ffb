//! The JavaScript environment comes with a function that loads code, whatever that function is made of.

use hearth_contract::Loader;
use hearth_contract::proto::State;
use hearth_shim::prepare::Source;
use hearth_test_guests::{Guest, javascript_environment};

use crate::node::{Node, call, free_port, source};

const MODULE: &str = "export default {
  fetch(request, env) {
    const code = \"export default { fetch: () => new Response('loaded by a module') };\";
    return env.LOADER.load({ mainModule: 'a.js', modules: { 'a.js': code } }).fetch(request);
  },
};
";

#[tokio::test(flavor = "multi_thread")]
async fn components_and_modules_of_a_registry_load_code() {
    let node = Node::start().await;
    std::fs::write(node.javascript(), javascript_environment().unwrap()).unwrap();
    let image = "other.example.com/module:1";
    node.store.publish_module(image, MODULE);
    let component = node.wanted(Guest::Loading, 1, free_port());
    let mut module = component.clone();
    module.function.key.uid = "module".to_owned();
    module.source = source(image);
    module.port = free_port();
    let mut inline = component.clone();
    inline.function.key.uid = "inline".to_owned();
    inline.source = Source::JavaScript(MODULE.into());
    inline.port = free_port();
    let all = [component, module, inline].map(|mut wanted| {
        wanted.function.capabilities.loader = Some(Loader::default());
        if let Source::Image(image) = &mut wanted.source {
            image.loads = true;
        }
        wanted
    });
    let mut host = node.host(free_port()).await;
    host.desired.send_modify(|desired| {
        desired.started = true;
        let uid = |wanted: &hearth_shim::host::plan::Wanted| wanted.function.key.uid.clone();
        let functions = all.iter().map(|wanted| (uid(wanted), wanted.clone()));
        desired.functions.extend(functions);
    });
    node.board(&mut host, |board| {
        let reports = board.functions.values();
        reports
            .filter(|report| report.state() == State::Serving)
            .count()
            == all.len()
    })
    .await;
    for (wanted, expected) in all.iter().zip([
        "loaded by C: [\"a\",1]",
        "loaded by a module",
        "loaded by a module",
    ]) {
        let answer = call(wanted.port, "/").await;
        let name = &wanted.function.key.uid;
        assert!(answer.ends_with(expected), "{name}: {answer}");
    }
}

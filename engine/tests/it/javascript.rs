//! Functions in JavaScript: what their environment has, what they may do wrong, and what that costs them.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use hearth_contract::Reuse;
use hearth_contract::proto::State;
use hearth_test_guests::{Guest, javascript_environment};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::harness::{Engine, artifact, call, ended, function, get, piece, pieces, rest, send};

/// The page that holds the table of what there is, and where in it the table stands.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/javascript.md");
const TABLE: [&str; 2] = [
    "<!-- table of APIs: made by engine/tests/it/javascript.rs -->\n",
    "\n<!-- end of the table -->",
];

type Body = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

/// Nine letters and a space, twenty times, as gzip.
const SQUEEZED: &str = "H4sIAAAAAAACAysuLE1NrUpNUSgeOgwA2L7bALQAAAA=";

/// A server that the functions call: `/hello`, `/redirect`, `/never` and others below, and an echo elsewhere.
pub(crate) async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer)),
            );
        }
    });
    address
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    let value = request.headers().get(name);
    value.map_or("none".to_owned(), |value| {
        value.to_str().unwrap().to_owned()
    })
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(match request.uri().path() {
        "/hello" => Response::new(full("hello")),
        "/redirect" => Response::builder()
            .status(302)
            .header("location", "/hello")
            .body(full(""))
            .unwrap(),
        "/never" => std::future::pending().await,
        // A body that begins and does not go on.
        "/stalls" => {
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
            let body = StreamBody::new(first.chain(futures::stream::pending()));
            Response::new(BodyExt::boxed(body))
        }
        "/304" => Response::builder().status(304).body(full("")).unwrap(),
        "/gzip" => Response::builder()
            .header("content-encoding", "gzip")
            .header("x-asked", header(&request, "accept-encoding"))
            .body(full(STANDARD.decode(SQUEEZED).unwrap()))
            .unwrap(),
        // What came, said to be encoded.
        "/as" => Response::builder()
            .header("content-encoding", header(&request, "x-encoding"))
            .body(request.into_body().boxed())
            .unwrap(),
        // What came: the length that was said, and that of the body.
        "/seen" => {
            let said = header(&request, "content-length");
            match request.into_body().collect().await {
                Ok(body) => Response::new(full(format!("{said} {}", body.to_bytes().len()))),
                Err(_) => Response::new(full(format!("{said} broken"))),
            }
        }
        _ => Response::new(request.into_body().boxed()),
    })
}

/// A module whose handler has this body.
fn handler(body: &str) -> String {
    format!("export default {{\n  async fetch(request, env, ctx) {{\n{body}\n  }},\n}};\n")
}

#[tokio::test]
async fn the_environment_has_what_the_page_says() {
    let server = server().await;
    let engine = Engine::start().await;
    let checks = include_str!("../../../js/tests/apis.js");
    let address = engine
        .place_javascript(
            checks,
            function("apis", |function| {
                function.limits.deadline = Duration::from_secs(60);
                function.capabilities.env = vec![("BASE".to_owned(), format!("http://{server}"))];
                function.capabilities.egress = vec![format!("http://{server}").parse().unwrap()];
            }),
        )
        .await;
    let answer = get(address, "/").await;
    let log = engine.end().await;
    assert_eq!(answer.status, 200, "{}\n{log}", answer.body);
    assert!(log.contains("apis: one is 1 {"), "{log}");
    assert!(log.contains("apis: warn: Error: shown"), "{log}");
    for words in [
        "headers: Headers { x: \"shown\" }",
        "{ url: URL \"http://c/\" }",
        "  with { code: 7 }",
        "  of Error: inner",
        "{ lazy: [getter] } [cannot be shown: it throws]",
        "uncaught Error: of a task (agent.js:",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let results: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let mut table = "| | what | there |\n|---|---|---|".to_owned();
    let mut group = "";
    for result in results.as_array().unwrap() {
        let text = |key: &str| result[key].as_str().unwrap_or_default();
        let problem = text("problem");
        // What is known not to be there.
        assert!(
            problem.is_empty() || text("name") == "Intl" || text("group") == "ECMA-429",
            "{} | {}: {problem}",
            text("group"),
            text("name")
        );
        let first = if text("group") == group {
            ""
        } else {
            text("group")
        };
        group = text("group");
        let there = if problem.is_empty() { "yes" } else { "no" };
        write!(table, "\n| {first} | {} | {there} |", text("name")).unwrap();
    }
    let page = std::fs::read_to_string(PAGE).unwrap();
    let between = page
        .split_once(TABLE[0])
        .and_then(|(_, rest)| rest.split_once(TABLE[1]));
    let held = between.map(|(table, _)| table);
    assert_eq!(
        held,
        Some(table.as_str()),
        "docs/javascript.md holds another table than this:\n{table}\n"
    );
}

#[tokio::test]
async fn a_request_goes_in_and_an_answer_comes_out() {
    let engine = Engine::start().await;
    let source = handler(
        "const url = new URL(request.url);
         return Response.json({
           method: request.method, path: url.pathname, query: url.searchParams.get('q'),
           host: request.headers.get('host') === url.host, body: await request.text(), greeting: env.GREETING,
         }, { status: 201, headers: { 'x-made-by': 'js' } });",
    );
    let address = engine
        .place_javascript(
            &source,
            function("js", |function| {
                function.capabilities.env = vec![("GREETING".to_owned(), "Moin".to_owned())];
            }),
        )
        .await;
    let answer = call(address, "POST", "/a/b?q=1", b"in").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.headers["x-made-by"], "js");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.body,
        r#"{"method":"POST","path":"/a/b","query":"1","host":true,"body":"in","greeting":"Moin"}"#
    );
    engine.end().await;
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let engine = Engine::start().await;
    let source = handler(
        "return new Response(request.body.pipeThrough(new TextDecoderStream()).pipeThrough(new TransformStream({ transform: (chunk, controller) => controller.enqueue(chunk.toUpperCase()) })).pipeThrough(new TextEncoderStream()));",
    );
    let address = engine
        .place_javascript(&source, function("upper", |_| {}))
        .await;
    let (sender, body) = pieces();
    sender.send(Frame::data(Bytes::from("one"))).await.unwrap();
    let mut answer = send(address, "POST", "/", body).await.into_body();
    // The first piece is answered while the request goes on.
    assert_eq!(piece(&mut answer).await, "ONE");
    sender.send(Frame::data(Bytes::from("two"))).await.unwrap();
    assert_eq!(piece(&mut answer).await, "TWO");
    drop(sender);
    assert!(rest(answer).await.unwrap().to_bytes().is_empty());
    engine.end().await;
}

#[tokio::test]
async fn events_go_out_as_they_come_and_wait_until_runs_after_the_answer() {
    let mut engine = Engine::start().await;
    let source = handler(
        "let at = 0;
         const stream = new ReadableStream({ async pull(controller) {
           if (at === 3) return controller.close();
           await new Promise((resolve) => setTimeout(resolve, 5));
           controller.enqueue(new TextEncoder().encode(`data: ${at++}\\n\\n`));
         } });
         ctx.waitUntil(new Promise((resolve) => setTimeout(resolve, 50)).then(() => console.log('afterwards')));
         return new Response(stream, { headers: { 'content-type': 'text/event-stream' } });",
    );
    let address = engine
        .place_javascript(&source, function("events", |_| {}))
        .await;
    let answer = send(address, "GET", "/", Empty::<Bytes>::new()).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    assert_eq!(piece(&mut body).await, "data: 0\n\n");
    let more = rest(body).await.unwrap().to_bytes();
    assert_eq!(more, "data: 1\n\ndata: 2\n\n");
    // A call is counted when its guest has ended.
    engine
        .report("events", |report| ended(report, "answered") == 1)
        .await;
    let log = engine.end().await;
    assert!(log.contains("events: afterwards"), "{log}");
}

#[tokio::test]
async fn a_caller_who_goes_away_ends_the_call_and_what_waits() {
    let mut engine = Engine::start().await;
    let source = handler(
        "ctx.waitUntil(new Promise((resolve) => setTimeout(resolve, 600000)).then(() => console.log('afterwards')));
         const stream = new ReadableStream({ start: (controller) => controller.enqueue('begun') });
         return new Response(stream.pipeThrough(new TextEncoderStream()));",
    );
    let address = engine
        .place_javascript(
            &source,
            function("left", |function| {
                function.limits.deadline = Duration::from_secs(600);
            }),
        )
        .await;
    let mut body = send(address, "GET", "/", Empty::<Bytes>::new())
        .await
        .into_body();
    assert_eq!(piece(&mut body).await, "begun");
    drop(body);
    engine
        .report("left", |report| {
            report.in_use == 0 && ended(report, "client_gone") == 1
        })
        .await;
    let log = engine.end().await;
    assert!(!log.contains("afterwards"), "{log}");
}

/// What docs/cloudflare-workers.md says of these.
#[tokio::test]
async fn what_workers_have_and_agents_have_not() {
    let engine = Engine::start().await;
    let source = handler(
        "const names = ['caches', 'HTMLRewriter', 'WebSocket', 'WebSocketPair', 'WebAssembly', 'Intl', 'addEventListener'];
         const missing = names.filter((name) => typeof globalThis[name] === 'undefined');
         const refused = await fetch('data:,x').then(() => 'none', (error) => error.name);
         ctx.passThroughOnException();
         const told = [missing.join(), 'cf' in request, 'props' in ctx, 'exports' in ctx, refused, (1234.5).toLocaleString(),
           'DigestStream' in crypto, 'timingSafeEqual' in crypto.subtle];
         if (new URL(request.url).pathname === '/throw') throw new Error('seen');
         return new Response(JSON.stringify(told), { headers: { 'content-encoding': 'br' } });",
    );
    let address = engine
        .place_javascript(&source, function("worker", |_| {}))
        .await;
    let answer = send(address, "GET", "/", Empty::<Bytes>::new()).await;
    assert_eq!(answer.headers()["content-encoding"], "br");
    let body = rest(answer.into_body()).await.unwrap().to_bytes();
    assert_eq!(
        body,
        r#"["caches,HTMLRewriter,WebSocket,WebSocketPair,WebAssembly,Intl,addEventListener",false,false,false,"TypeError","1234.5",false,false]"#
    );
    let thrown = get(address, "/throw").await;
    assert_eq!(
        (thrown.status, thrown.outcome.as_deref()),
        (500, Some("threw"))
    );
    engine.end().await;
}

/// Code that cannot be loaded, and what its owner reads.
#[tokio::test]
async fn code_that_cannot_be_loaded_is_named_with_its_position() {
    for (source, words) in [
        (
            "export default {\n  fetch() { return new Response('x') \n}; !",
            "the code cannot be compiled: SyntaxError: ",
        ),
        (
            "\nconst a = 1;\nundefinedName.x();\nexport default { fetch() {} };",
            "the code threw when it was loaded: ReferenceError: undefinedName is not defined (agent.js:3:1)",
        ),
        (
            "import x from 'left-pad';\nexport default { fetch() {} };",
            "\"left-pad\" cannot be imported: a function is one module; bundle what it needs into it",
        ),
        (
            "await new Promise(() => {});\nexport default { fetch() {} };",
            "the code waits when it is loaded: ",
        ),
        (
            "setTimeout(() => {}, 1);\nexport default { fetch() {} };",
            "timers only work while a request is handled, not while the module is loaded (agent.js:1:",
        ),
        ("export const x = 1;", "the code has no handler: "),
        (
            "throw { code: 7 };",
            "the code threw when it was loaded: thrown: { code: 7 }",
        ),
    ] {
        let mut engine = Engine::start().await;
        let address = engine
            .place_javascript(source, function("bad", |_| {}))
            .await;
        let report = engine
            .report("bad", |report| report.state() == State::Failed)
            .await;
        let failure = report.failure.unwrap();
        assert_eq!(failure.reason, "LoadFailed", "{source}");
        assert!(
            failure.message.contains(words),
            "{source}: {}",
            failure.message
        );
        let answer = get(address, "/").await;
        assert_eq!(
            (answer.status, answer.outcome.as_deref()),
            (500, Some("load_failed"))
        );
        assert!(
            !answer.body.contains(words),
            "a caller reads nothing of the code"
        );
        let log = engine.end().await;
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test]
async fn an_exception_that_nobody_caught_is_told_with_its_place() {
    let mut engine = Engine::start().await;
    let source = handler(
        "    const order = JSON.parse('{}');\n    return new Response(order.items.length);",
    );
    let address = engine
        .place_javascript(&source, function("throws", |_| {}))
        .await;
    let answer = get(address, "/").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (500, Some("threw")),
        "{}",
        answer.body
    );
    assert!(!answer.body.contains("items"), "{}", answer.body);
    engine
        .report("throws", |report| ended(report, "threw") == 1)
        .await;
    let log = engine.end().await;
    assert!(
        log.contains(
            "throws: uncaught TypeError: cannot read property 'length' of undefined (agent.js:4:25)"
        ),
        "{log}"
    );
}

/// A module with a source map: its line 1 is line 101 of `src/agent.ts`, and so on.
fn mapped(code: &str) -> String {
    let map = r#"{"version":3,"sources":["src/agent.ts"],"mappings":"AAoGA;AACA;AACA;AACA;AACA;AACA;AACA;AACA"}"#;
    format!(
        "{code}\n//# sourceMappingURL=data:application/json;base64,{}\n",
        STANDARD.encode(map)
    )
}

#[tokio::test]
async fn positions_are_those_of_the_sources_and_callers_read_them_where_that_is_allowed() {
    for (code, outcome, words) in [
        (
            handler("    console.log(new Error('seen').stack.split('\\n')[0]);\n    null.x;"),
            "threw",
            "uncaught TypeError: cannot read property 'x' of null (src/agent.ts:104:1)",
        ),
        (
            "\n\nnull.x;".to_owned(),
            "load_failed",
            "the code threw when it was loaded: TypeError: cannot read property 'x' of null (src/agent.ts:103:1)",
        ),
        (
            "\nexport default {".to_owned(),
            "load_failed",
            "(src/agent.ts:10",
        ),
        (
            handler("    return new Promise(() => {});"),
            "threw",
            "the answer waits for something that never comes",
        ),
    ] {
        for debug in [false, true] {
            let engine = Engine::start().await;
            let function = function("maps", |function| function.capabilities.debug = debug);
            let address = engine.place_javascript(&mapped(&code), function).await;
            let answer = get(address, "/").await;
            assert_eq!(answer.outcome.as_deref(), Some(outcome), "{}", answer.body);
            assert_eq!(answer.body.contains(words), debug, "{}", answer.body);
            let log = engine.end().await;
            assert!(log.contains(words), "{log}");
            assert!(!log.contains("agent.js:"), "{log}");
        }
    }
}

#[tokio::test]
async fn what_is_no_response_and_what_never_comes_are_told() {
    for (body, words) in [
        (
            "return { status: 200 };",
            "uncaught TypeError: fetch returned no Response but { status: 200 }",
        ),
        (
            "return new Promise(() => {});",
            "the answer waits for something that never comes",
        ),
    ] {
        let engine = Engine::start().await;
        let address = engine
            .place_javascript(&handler(body), function("js", |_| {}))
            .await;
        let answer = get(address, "/").await;
        assert_eq!(answer.outcome.as_deref(), Some("threw"), "{}", answer.body);
        let log = engine.end().await;
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test]
async fn a_body_that_fails_is_told_once() {
    let mut engine = Engine::start().await;
    let source = handler(
        "return new Response(new ReadableStream({ async pull(controller) { controller.error(new RangeError('torn')); } }));",
    );
    let address = engine
        .place_javascript(&source, function("fails", |_| {}))
        .await;
    let (_sender, body) = pieces();
    let answer = send(address, "POST", "/", body).await;
    // Whole or not: its head may be on its way by then.
    let _ = rest(answer.into_body()).await;
    engine
        .report("fails", |report| {
            report.calls.iter().map(|call| call.count).sum::<u64>() == 1
        })
        .await;
    let log = engine.end().await;
    assert_eq!(log.matches("torn").count(), 1, "{log}");
    assert!(log.contains("fails: uncaught RangeError: torn"), "{log}");
}

/// A log has the words once when the call has ended, whatever its caller got.
async fn told(body: &str, words: &str) {
    let mut engine = Engine::start().await;
    let address = engine
        .place_javascript(&handler(body), function("tells", |_| {}))
        .await;
    let answer = send(address, "GET", "/", Empty::<Bytes>::new()).await;
    let _ = rest(answer.into_body()).await;
    engine
        .report("tells", |report| {
            report.calls.iter().map(|call| call.count).sum::<u64>() == 1
        })
        .await;
    let log = engine.end().await;
    assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
}

#[tokio::test]
async fn what_goes_wrong_in_a_body_or_a_task_is_told_with_its_place() {
    let good = "const stream = new ReadableStream({ async pull(controller) {
       if (stream.seen) throw new RangeError('torn late');
       stream.seen = true;
       controller.enqueue(new TextEncoder().encode('x'.repeat(100_000)));
       await new Promise((resolve) => setTimeout(resolve, 20));
     } });
     return new Response(stream);";
    told(good, "tells: uncaught RangeError: torn late (agent.js:4:").await;
    told(
        "return new Response(ReadableStream.from(['text']));",
        "tells: uncaught TypeError: the stream of a body has a string in it",
    )
    .await;
    told(
        "    JSON.parse('{bad');",
        "line 1 column 2) (agent.js:3:10)",
    )
    .await;
    told(
        "    try { null.x; } catch (error) { console.log(error.stack); }\n    return new Response();",
        "tells: TypeError: cannot read property 'x' of null\n",
    )
    .await;
}

#[tokio::test]
async fn a_task_that_throws_is_told_and_the_call_goes_on() {
    let engine = Engine::start().await;
    let source = handler(
        "    queueMicrotask(() => { throw new RangeError('of a task'); });
    setTimeout(() => { throw new RangeError('of a timer'); }, 0);
    await new Promise((resolve) => setTimeout(resolve, 5));
    return new Response('goes on');",
    );
    let address = engine
        .place_javascript(&source, function("tasks", |_| {}))
        .await;
    assert_eq!(get(address, "/").await.body, "goes on");
    let log = engine.end().await;
    for words in [
        "tasks: uncaught RangeError: of a task (agent.js:3:",
        "tasks: uncaught RangeError: of a timer (agent.js:4:",
    ] {
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_behind_its_answer_is_told() {
    let server = server().await;
    let engine = Engine::start().await;
    let source = handler(
        "    const body = new ReadableStream({ async pull(controller) {
      controller.enqueue(new Uint8Array(1));
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new RangeError('torn behind it');
    } });
    const answer = await fetch(`${env.BASE}/hello`, { method: 'POST', body });
    await new Promise((resolve) => setTimeout(resolve, 100));
    return answer;",
    );
    let address = engine
        .place_javascript(
            &source,
            function("uploads", |function| {
                function.capabilities.env = vec![("BASE".to_owned(), format!("http://{server}"))];
                function.capabilities.egress = vec![format!("http://{server}").parse().unwrap()];
            }),
        )
        .await;
    assert_eq!(get(address, "/").await.body, "hello");
    let log = engine.end().await;
    let words =
        format!("warn: not all of the body of a request to {server} was sent: torn behind it");
    assert!(log.contains(&words), "{log}");
}

#[tokio::test]
async fn an_answer_is_as_long_as_its_body_whatever_its_headers_say() {
    let server = server().await;
    let engine = Engine::start().await;
    let source = handler(
        "const { pathname } = new URL(request.url);
         const twice = new TransformStream({ transform: (chunk, controller) => { controller.enqueue(chunk); controller.enqueue(chunk); } });
         if (pathname === '/said') return new Response('abc', { headers: { 'content-length': '10' } });
         if (pathname === '/none') return new Response(null, { headers: { 'content-length': '10' } });
         const answer = await fetch(env.BASE + (pathname === '/304' || pathname === '/gzip' ? pathname : '/hello'), { headers: request.headers });
         if (pathname === '/longer') return new Response(await answer.text() + '!', answer);
         if (pathname === '/piped') return new Response(answer.body.pipeThrough(twice), answer);
         if (pathname === '/same') return answer;
         if (pathname === '/gzip') request.headers.set('accept-encoding', 'gzip');
         return new Response(answer.body, answer);",
    );
    let address = engine
        .place_javascript(
            &source,
            function("lengths", |function| {
                function.capabilities.env = vec![("BASE".to_owned(), format!("http://{server}"))];
                function.capabilities.egress = vec![format!("http://{server}").parse().unwrap()];
            }),
        )
        .await;
    let squeezed = "squeezed ".repeat(20);
    for (path, status, body, length) in [
        ("/said", 200, "abc", Some("3")),
        ("/longer", 200, "hello!", Some("6")),
        ("/piped", 200, "hellohello", None),
        ("/same", 200, "hello", Some("5")),
        ("/new", 200, "hello", Some("5")),
        ("/304", 304, "", None),
        // Who asks for nothing is given what it is.
        ("/gzip", 200, squeezed.as_str(), None),
    ] {
        let answer = get(address, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        if length.is_some() {
            let told = answer.headers.get("content-length");
            assert_eq!(told.map(|value| value.to_str().unwrap()), length, "{path}");
        }
        assert!(!answer.headers.contains_key("content-encoding"), "{path}");
    }
    for (path, length) in [("/said", "3"), ("/none", "10"), ("/same", "5")] {
        let answer = call(address, "HEAD", path, b"").await;
        assert_eq!(answer.headers["content-length"], length, "{path}");
    }
    let request = Request::get("/gzip")
        .header("host", "localhost")
        .header("accept-encoding", "br, gzip")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sent(address, request).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let raw = rest(answer.into_body()).await.unwrap().to_bytes();
    assert_eq!(raw, STANDARD.decode(SQUEEZED).unwrap());
    engine.end().await;
}

/// What comes back for a request of one's own making.
async fn sent(address: SocketAddr, request: Request<Empty<Bytes>>) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn an_unhandled_rejection_is_told_and_the_answer_goes_out() {
    let mut engine = Engine::start().await;
    let source = handler(
        "    Promise.reject(new RangeError('lost'));\n    ctx.waitUntil(new Promise((resolve) => setTimeout(resolve, 30)).then(() => console.log('later')));\n    return new Response('fine');",
    );
    let address = engine
        .place_javascript(&source, function("rejects", |_| {}))
        .await;
    let answer = get(address, "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "fine"));
    // The guest goes on after its answer, whose length its head tells.
    engine
        .report("rejects", |report| ended(report, "answered") == 1)
        .await;
    let log = engine.end().await;
    assert!(
        log.contains("rejects: unhandled rejection: RangeError: lost (agent.js:3:")
            && log.contains("rejects: later"),
        "{log}"
    );
}

#[tokio::test]
async fn a_loop_without_end_meets_its_deadline() {
    for (source, outcome) in [
        (handler("for (;;) {}"), "deadline_exceeded"),
        (
            handler("await new Promise((resolve) => setTimeout(resolve, 60000));"),
            "deadline_exceeded",
        ),
        ("for (;;) {}".to_owned(), "deadline_exceeded"),
    ] {
        let engine = Engine::start().await;
        let limited = function("loops", |function| {
            function.limits.deadline = Duration::from_millis(300);
        });
        let address = engine.place_javascript(&source, limited).await;
        let answer = get(address, "/").await;
        assert_eq!(
            (answer.status, answer.outcome.as_deref()),
            (504, Some(outcome)),
            "{source}"
        );
        engine.end().await;
    }
}

#[tokio::test]
async fn memory_that_is_used_up_ends_the_call() {
    let mut engine = Engine::start().await;
    let source = handler("const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1));");
    let limited = function("hoards", |function| {
        function.limits.memory_bytes = NonZeroU64::new(16 << 20).unwrap();
    });
    let address = engine.place_javascript(&source, limited).await;
    let answer = get(address, "/").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (500, Some("out_of_memory")),
        "{}",
        answer.body
    );
    engine
        .report("hoards", |report| ended(report, "out_of_memory") == 1)
        .await;
    // Of objects, not of bytes: every allocation of the engine's own may be the one that fails.
    let small = handler("let all; for (;;) all = { all, text: [1, 2, 3].map(String) };");
    let limited = function("litters", |function| {
        function.limits.memory_bytes = NonZeroU64::new(16 << 20).unwrap();
        function.limits.deadline = Duration::from_secs(30);
    });
    let address = engine.place_javascript(&small, limited).await;
    let answer = get(address, "/").await;
    assert_eq!(
        answer.outcome.as_deref(),
        Some("out_of_memory"),
        "{}",
        answer.body
    );
    engine.end().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_the_callers_fault() {
    let engine = Engine::start().await;
    let small = function("small", |function| function.limits.request_body_bytes = 10);
    let address = engine
        .place_javascript(
            &handler("return new Response(await request.text());"),
            small,
        )
        .await;
    // Without an announced length: it is found out while it is read.
    let frames =
        ["12345", "67890", "1"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
    let body = StreamBody::new(futures::stream::iter(frames));
    let answer = crate::harness::Answer::of(send(address, "POST", "/", body).await).await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (413, Some("too_large")),
        "{}",
        answer.body
    );
    engine.end().await;
}

#[tokio::test]
async fn each_call_has_a_fresh_instance_unless_they_are_reused() {
    let source = format!(
        "let calls = 0;\n{}",
        handler("return new Response(String(++calls));")
    );
    let engine = Engine::start().await;
    let fresh = engine
        .place_javascript(&source, function("fresh", |_| {}))
        .await;
    let reused = engine
        .place_javascript(
            &source,
            function("reused", |function| {
                function.target = 1;
                function.reuse = Some(Reuse {
                    calls: 100.try_into().unwrap(),
                    age: Reuse::AGE,
                });
            }),
        )
        .await;
    let mut counts = Vec::new();
    for _ in 0..3 {
        assert_eq!(get(fresh, "/").await.body, "1");
        counts.push(get(reused, "/").await.body);
    }
    assert!(counts.contains(&"2".to_owned()), "{counts:?}");
    engine.end().await;
}

#[tokio::test]
async fn a_signal_that_outlives_calls_does_not_keep_what_they_did() {
    let server = server().await;
    let source = format!(
        "let calls = 0, listeners = 0;
         const {{ signal }} = new AbortController();
         const {{ addEventListener, removeEventListener }} = signal;
         signal.addEventListener = (...args) => {{ listeners++; addEventListener.apply(signal, args); }};
         signal.removeEventListener = (...args) => {{ listeners--; removeEventListener.apply(signal, args); }};
         {}",
        handler(
            "const before = listeners;
             await fetch(env.BASE + '/stalls', { signal });
             return new Response(`${++calls} ${before} ${listeners}`);"
        )
    );
    let engine = Engine::start().await;
    let address = engine
        .place_javascript(
            &source,
            function("signals", |function| {
                function.target = 1;
                function.reuse = Some(Reuse {
                    calls: 100.try_into().unwrap(),
                    age: Reuse::AGE,
                });
                function.capabilities.env = vec![("BASE".to_owned(), format!("http://{server}"))];
                function.capabilities.egress = vec![format!("http://{server}").parse().unwrap()];
            }),
        )
        .await;
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.push(get(address, "/").await.body);
    }
    assert!(counts.contains(&"2 0 1".to_owned()), "{counts:?}");
    engine.end().await;
}

#[tokio::test]
async fn instances_do_not_share_their_random_numbers() {
    let source = format!(
        "const early = Math.random();\n{}",
        handler("return new Response([early, Math.random(), crypto.randomUUID()].join());")
    );
    let engine = Engine::start().await;
    let address = engine
        .place_javascript(&source, function("random", |_| {}))
        .await;
    let [one, two] = [get(address, "/").await.body, get(address, "/").await.body];
    for (a, b) in one.split(',').zip(two.split(',')) {
        assert_ne!(a, b);
    }
    engine.end().await;
}

#[tokio::test]
async fn the_environment_without_code_and_code_without_it_are_refused() {
    let mut engine = Engine::start().await;
    let bare = artifact("javascript", javascript_environment).await;
    engine
        .place_with(bare, None, None, function("bare", |_| {}))
        .await;
    let hello = artifact("hello-c", || Guest::Hello.wasm()).await;
    let module = tempfile::tempfile().unwrap();
    engine
        .place_with(hello, Some(module.into()), None, function("hello", |_| {}))
        .await;
    for (name, words) in [
        ("bare", "answers no calls without a module"),
        ("hello", "is not the JavaScript environment"),
    ] {
        let report = engine
            .report(name, |report| report.state() == State::Failed)
            .await;
        let failure = report.failure.unwrap();
        assert_eq!(failure.reason, "NoEntryPoint");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    engine.end().await;
}

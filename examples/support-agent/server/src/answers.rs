//! What is answered to what. Pure: the same request has the same answer, whoever asks and whenever.

use serde_json::{Value, json};

/// An HTTP status and a JSON body.
pub(crate) type Answer = (u16, Value);

/// The knowledge base: identifier, title, words that find it, text.
const DOCUMENTS: [(&str, &str, &[&str], &str); 3] = [
    (
        "shipping",
        "Shipping",
        &["where", "order", "shipping", "delivery", "arrive"],
        "Parcels arrive two to four days after they were handed to the carrier.",
    ),
    (
        "returns",
        "Returns",
        &["return", "refund", "back", "exchange"],
        "Goods can be sent back within 30 days. The refund arrives five days after the parcel.",
    ),
    (
        "invoices",
        "Invoices",
        &["invoice", "bill", "tax"],
        "Invoices are under Account, Orders, Invoice, from the day an order was shipped.",
    ),
];

/// The documents whose words stand in the query.
pub(crate) fn search(query: &str) -> Answer {
    let query = query.to_lowercase();
    let documents: Vec<Value> = DOCUMENTS
        .iter()
        .filter(|(_, _, words, _)| words.iter().any(|word| query.contains(word)))
        .map(|(id, title, _, text)| json!({"id": id, "title": title, "text": text}))
        .collect();
    (200, json!({"documents": documents}))
}

/// The state of an order.
pub(crate) fn order(id: &str) -> Answer {
    match id {
        "4711" => (
            200,
            json!({"id": "4711", "customer": "c-17", "status": "shipped", "carrier": "Blitz", "arrives": "Thursday"}),
        ),
        "4712" => (
            200,
            json!({"id": "4712", "customer": "c-18", "status": "packed"}),
        ),
        _ => (404, json!({"error": format!("there is no order {id}")})),
    }
}

/// One completion, in OpenAI's shape: asks for `lookup_order` when the question names a number and nothing was looked up yet,
/// else answers with what it was given.
pub(crate) fn complete(request: &Value) -> Answer {
    let Some(messages) = request["messages"]
        .as_array()
        .filter(|messages| !messages.is_empty())
    else {
        return (
            400,
            json!({"error": {"message": "messages is missing or empty"}}),
        );
    };
    let last = |role: &str| {
        let message = messages
            .iter()
            .rev()
            .find(|message| message["role"] == role);
        message
            .and_then(|message| message["content"].as_str())
            .unwrap_or_default()
    };
    let offered = request["tools"].as_array().is_some_and(|tools| {
        tools
            .iter()
            .any(|tool| tool["function"]["name"] == "lookup_order")
    });
    let looked_up = messages.iter().any(|message| message["role"] == "tool");
    let message = match number(last("user")) {
        Some(id) if offered && !looked_up => json!({
            "role": "assistant",
            "content": null,
            "tool_calls": [{
                "id": "call-1",
                "type": "function",
                "function": {"name": "lookup_order", "arguments": json!({"order_id": id}).to_string()},
            }],
        }),
        _ => json!({"role": "assistant", "content": conclude(last("tool"), last("system"))}),
    };
    let reason = if message["content"].is_null() {
        "tool_calls"
    } else {
        "stop"
    };
    (
        200,
        json!({
            // Of its own for each: clients take two messages of one name for one.
            "id": format!("completion-{}", messages.len()),
            "object": "chat.completion",
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }),
    )
}

/// A completion as the events of a stream, which is how it is told to who asked for `stream`: the message in pieces, then its
/// end.
pub(crate) fn events(completion: &Value) -> String {
    let choice = &completion["choices"][0];
    let message = &choice["message"];
    let mut deltas = vec![json!({"role": "assistant", "content": ""})];
    for (index, call) in message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let mut call = call.clone();
        call["index"] = json!(index);
        deltas.push(json!({"tool_calls": [call]}));
    }
    let words = message["content"].as_str().unwrap_or_default();
    deltas.extend(
        words
            .split_inclusive(' ')
            .map(|word| json!({"content": word})),
    );
    let mut chunks: Vec<Value> = (deltas.into_iter())
        .map(|delta| json!({"index": 0, "delta": delta, "finish_reason": null}))
        .collect();
    chunks.push(json!({"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}));
    let mut events = String::new();
    for chunk in chunks {
        let event = json!({
            "id": completion["id"],
            "object": "chat.completion.chunk",
            "model": completion["model"],
            "choices": [chunk],
        });
        events += &format!("data: {event}\n\n");
    }
    events + "data: [DONE]\n\n"
}

fn conclude(tool: &str, system: &str) -> String {
    if let Some(error) = field(tool, "error") {
        return format!("I could not find that: {error}.");
    }
    if let (Some(id), Some(status)) = (field(tool, "id"), field(tool, "status")) {
        let arrives = field(tool, "arrives").map(|day| format!(" and arrives on {day}"));
        return format!(
            "Your order {id} is {status}{}.",
            arrives.unwrap_or_default()
        );
    }
    // What stands behind `[id] ` in the first document.
    let document = system
        .lines()
        .find_map(|line| line.strip_prefix('[')?.split_once("] "));
    document.map_or_else(|| "I do not know.".to_owned(), |(_, text)| text.to_owned())
}

/// A field of a flat object: in JSON, or in what a framework makes of JSON for a model to read.
fn field(object: &str, name: &str) -> Option<String> {
    let plain = object.replace(['{', '}', '"', '\\'], "");
    let fields = plain.split([',', '\n']);
    let mut fields = fields.filter_map(|field| field.split_once(':'));
    let found = fields.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned())
}

fn number(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit())
        .find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(messages: Value) -> Value {
        let tools = json!([{"type": "function", "function": {"name": "lookup_order"}}]);
        complete(&json!({"model": "m", "messages": messages, "tools": tools})).1["choices"][0]
            .clone()
    }

    #[test]
    fn a_number_is_looked_up_before_it_is_answered() {
        let question = json!({"role": "user", "content": "Where is my order 4711?"});
        let first = completion(json!([question]));
        assert_eq!(first["finish_reason"], "tool_calls");
        assert_eq!(
            first["message"]["tool_calls"][0]["function"]["arguments"],
            r#"{"order_id":"4711"}"#
        );
        let tool = json!({"role": "tool", "content": order("4711").1.to_string()});
        let second = completion(json!([question, first["message"], tool]));
        assert_eq!(
            second["message"]["content"],
            "Your order 4711 is shipped and arrives on Thursday."
        );
    }

    #[test]
    fn without_a_number_the_first_document_answers() {
        let system = json!({"role": "system", "content": "Be kind.\n\nDocuments:\n[returns] Within 30 days."});
        let choice = completion(json!([system, {"role": "user", "content": "Can I return it?"}]));
        assert_eq!(choice["message"]["content"], "Within 30 days.");
        assert_eq!(choice["finish_reason"], "stop");
    }

    #[test]
    fn an_object_is_read_as_json_and_as_a_framework_writes_it() {
        for text in [
            r#"{"id":"4711","status":"shipped"}"#,
            "{\n  id: 4711,\n  status: shipped\n}",
            r#""{\"id\":\"4711\",\"status\":\"shipped\"}""#,
        ] {
            assert_eq!(conclude(text, ""), "Your order 4711 is shipped.", "{text}");
        }
        assert_eq!(
            conclude(r#"{"error":"there is none"}"#, ""),
            "I could not find that: there is none."
        );
    }

    #[test]
    fn a_stream_tells_the_same_in_pieces() {
        let completion = complete(&json!({"messages": [{"role": "user", "content": "Hello"}]})).1;
        let events = events(&completion);
        let mut text = String::new();
        for event in events
            .split("\n\n")
            .filter(|event| event.starts_with("data: {"))
        {
            let chunk: Value = serde_json::from_str(&event["data: ".len()..]).unwrap();
            text += chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default();
        }
        assert_eq!(text, "I do not know.");
        assert!(events.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn documents_are_found_by_their_words() {
        let check = |query: &str, expected: &[&str]| {
            let found = search(query).1;
            let ids: Vec<&str> = found["documents"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d["id"].as_str().unwrap())
                .collect();
            assert_eq!(ids, expected, "{query}");
        };
        check("Where is my order 4711?", &["shipping"]);
        check(
            "Can I RETURN it, and where is the invoice?",
            &["shipping", "returns", "invoices"],
        );
        check("hello", &[]);
    }

    #[test]
    fn an_empty_conversation_is_refused() {
        assert_eq!(complete(&json!({})).0, 400);
        assert_eq!(order("1").0, 404);
    }
}

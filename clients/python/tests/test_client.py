import pytest

from hearth_loader import Limits, Loader, LoaderError


def test_a_script_has_output_and_a_value(url, token):
    result = Loader(url, token).run_script("console.log('a'); console.error('b');\nreturn { six: await Promise.resolve(6) };")
    assert result.ok, result
    assert result.stdout == "a\n"
    assert result.output == "a\nerror: b\n"
    assert result.response.json() == {"six": 6}


def test_known_code_is_not_compiled_again(url, token):
    loader = Loader(url, token)
    script = "return 'code of this test';"
    starts = [loader.run_script(script).start for _ in range(2)]
    assert starts[1] in ("hit", "instantiate"), starts


def test_a_module_answers_a_request(url, token):
    source = "export default { async fetch(request, env) { return new Response(`${env.GREETING} ${await request.text()}`); } };"
    request = {"method": "POST", "url": "http://a.example/", "body": "you"}
    result = Loader(url, token).run("a.js", {"a.js": source}, env={"GREETING": "Moin"}, request=request)
    assert result.response.text == "Moin you"


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        ("null.x;", "threw", "(script.js:1:"),
        ("let = ;", "load_failed", "SyntaxError"),
        ("for (;;) {}", "cpu_exceeded", "200 ms"),
        ("await fetch('http://example.com/');", "threw", "denied"),
    ],
)
def test_code_that_fails_says_why(url, token, script, outcome, words):
    result = Loader(url, token).run_script(script, limits=Limits(cpu_milliseconds=200))
    assert result.outcome == outcome, result
    assert words in result.output, result.output


def test_who_has_no_token_is_told_so(url):
    with pytest.raises(LoaderError, match="401") as raised:
        Loader(url, "another").run_script("")
    assert raised.value.status == 401
    with pytest.raises(LoaderError, match="cannot be reached"):
        Loader("http://127.0.0.1:1", "any").run_script("")
    with pytest.raises(ValueError, match="no URL"):
        Loader("runner", "any")

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::name::SpiffeId;

fn caller() -> Caller {
    let workload =
        SpiffeId::parse("spiffe://corp.example/ns/agents/sa/reviewer").unwrap().workload().unwrap();
    let claims = r#"{"sub": "ann", "groups": ["dev", "ops"], "level": 3}"#;
    Caller::new(workload).of_tenant("acme").with_claims(claims).unwrap()
}

fn evaluate(text: &str, arguments: &str) -> Result<bool, String> {
    let condition: Condition = text.parse().map_err(|problem: Problem| problem.to_string())?;
    let (caller, server) = (caller(), ServerName::parse("research/files").unwrap());
    let facts = Facts {
        caller: &caller,
        server: &server,
        method: "tools/call",
        target: Some(Target::Tool("read_file")),
        arguments: Some(Raw::scan(arguments, 64).unwrap()),
    };
    condition.evaluate(&facts, &Meter::default()).map_err(|failure| condition.told(&failure))
}

#[track_caller]
fn check(arguments: &str, expected: &[(&str, bool)]) {
    for (text, expected) in expected {
        assert_eq!(evaluate(text, arguments), Ok(*expected), "{text} over {arguments}");
    }
}

/// What is wrong, wherever it is.
#[track_caller]
fn check_fails(arguments: &str, expected: &[(&str, &str)]) {
    for (text, problem) in expected {
        let found = evaluate(text, arguments).expect_err(text);
        assert!(found.ends_with(problem), "{text} over {arguments}: {found}");
    }
}

#[test]
fn what_is_known_of_a_call_can_be_asked() {
    check(
        "{}",
        &[
            ("caller.id == 'spiffe://corp.example/ns/agents/sa/reviewer'", true),
            ("caller.trustDomain == \"corp.example\" && caller.namespace == 'agents'", true),
            ("caller.serviceAccount == 'reviewer' && caller.tenant == 'acme'", true),
            ("request.method == 'tools/call' && request.tool == 'read_file'", true),
            ("request.prompt == '' && !has(request.resource) && has(caller.tenant)", true),
            ("request.namespace + '/' + request.server == 'research/files'", true),
            ("caller['namespace'] == 'agents'", true),
            ("'dev' in claims.groups && claims.groups.exists(g, g.startsWith('op'))", true),
            ("claims.level >= 3 && claims.sub == 'ann'", true),
            ("has(claims.email)", false),
        ],
    );
}

#[test]
fn arguments_are_read_where_they_stand() {
    let arguments =
        r#"{"path": "/data/public/a\u002etxt", "size": 99, "o": {"deep": [1, {"x": null}]}, "on": true}"#;
    check(
        arguments,
        &[
            (r#"args.path.startsWith("/data/public/") && args.size < 100"#, true),
            ("args.path.endsWith('a.txt') && args.path.contains('lic')", true),
            ("args.path.glob('/data/*.txt') && !args.path.glob('*.md')", true),
            ("args['path'] == args.path && args[\"p\" + \"ath\"].size() == 18", true),
            ("args.o.deep[0] == 1 && args.o.deep[1].x == null", true),
            ("has(args.o.deep) && !has(args.o.other) && 'deep' in args.o", true),
            ("args.on && size(args) == 4 && size(args.o.deep) == 2 && args.o.size() == 1", true),
            ("args.on ? args.size == 99 : args.nothing", true),
            ("args.path.lowerAscii() == args.path", true),
            ("args.o.deep == [1, 2]", false),
            ("[1, 'a'] == [1, 'a'] && [1] != [1, 2]", true),
        ],
    );
    check(r#"{"p\u0061th": "x"}"#, &[("args.path == 'x'", true)]);
}

#[test]
fn values_of_different_types_are_not_equal_and_have_no_order() {
    let arguments = r#"{"n": 1, "t": "1", "l": [1], "o": {}, "z": null}"#;
    check(
        arguments,
        &[
            ("args.n == args.t", false),
            ("args.n != args.l", true),
            ("args.o == args.z", false),
            ("args.z == null", true),
            ("args.t in args.l", false),
            ("string(args.n) == args.t && int(args.t) == args.n && double('1.5') == 1.5", true),
        ],
    );
    check_fails(
        arguments,
        &[
            ("args.n < args.t", "a number and a text have no order"),
            ("args.o == args.o", "objects cannot be compared"),
            ("args.n && true", "found a number, expected true or false"),
            ("args.n.startsWith('a')", "found a number, expected a text"),
            ("args.t + args.n == ''", "found a number, expected a text"),
            ("args.l.x == 1", "found a list, expected an object"),
            ("args.l[1] == 1", "the list has no such element"),
            ("args.l[0.5] == 1", "the number is not whole"),
            ("args.none == 1", "there is no field \"none\""),
            ("has(args.none.x)", "there is no field \"none\""),
            ("int(args.o) == 1", "found an object, expected a number or a text"),
            ("int('x') == 1", "the text is no number"),
            ("double('nan') == 1", "the number is too large"),
            ("args.n / 0 == 1", "division by zero"),
            ("args.n % 0.5 == 1", "the number is not whole"),
        ],
    );
}

#[test]
fn an_error_is_absorbed_by_what_settles_the_outcome_anyway() {
    check(
        r#"{"l": [1, "a", 3]}"#,
        &[
            ("false && args.none", false),
            ("args.none && false", false),
            ("true || args.none", true),
            ("args.none || true", true),
            ("args.l.exists(x, x > 2)", true),
            ("args.l.all(x, x > 2)", false),
        ],
    );
    check_fails(
        r#"{"l": [1, "a", 3]}"#,
        &[
            ("true && args.none", "there is no field \"none\""),
            ("args.none || false", "there is no field \"none\""),
            ("args.l.exists(x, x > 3)", "a text and a number have no order"),
            ("args.l.all(x, x > 0)", "a text and a number have no order"),
        ],
    );
}

#[test]
fn numbers_are_what_they_are_however_they_are_written() {
    let arguments =
        r#"{"a": 5, "b": 5.0, "c": 0.5e1, "d": 50e-1, "z": -0.0, "f": 2.5, "max": 18446744073709551615}"#;
    check(
        arguments,
        &[
            ("args.a == args.b && args.b == args.c && args.c == args.d", true),
            ("args.b / 2 == 2 && args.f / 2 == 1.25 && args.a % 3 == 2", true),
            ("args.z == 0 && -args.z == 0 && -args.a == -5 && - - 5 == 5", true),
            ("args.f > 2 && args.f < 3 && args.f != 2 && args.f == 2.50", true),
            ("args.max == 18446744073709551615 && args.max > 9223372036854775807", true),
            ("int(args.f) == 2 && int(-args.f) == -2 && double(args.a) == 5.0", true),
            ("2 + 3 * 4 - 1 == 13 && (2 + 3) * 4 == 20 && 7 - 2 - 1 == 4", true),
            ("string(args.f) == '2.5' && string(args.b) == '5'", true),
            ("0.1 + 0.2 > 0.3", true),
        ],
    );
    check_fails(arguments, &[("args.max + 1 > 0", "two readers could see different numbers")]);
    check_fails("{}", &[("9007199254740992 * 9007199254740992 > 0", "the number is too large")]);
}

#[test]
fn numbers_that_readers_see_differently_are_an_error() {
    let far = |number: &str| format!(r#"{{"n": {number}}}"#);
    let apart = "two readers could see different numbers";
    check_fails(&far("9007199254740993"), &[("args.n == 9007199254740992", apart)]);
    check_fails(&far("0.1000000000000000055"), &[("args.n == 0.1", apart), ("args.n <= 0.1", apart)]);
    check_fails(&far("100.00000000000000001"), &[("args.n <= 100", apart), ("args.n > 100", apart)]);
    check_fails(&far("18446744073709551616"), &[("args.n == 18446744073709551615", apart)]);
    check_fails(&far("1e-400"), &[("args.n == 0", apart)]);
    check(&far("9007199254740993"), &[("args.n == 9007199254740993 && args.n < 9007199254740999", true)]);
    check(&far("0.1"), &[("args.n == 0.1 && args.n == 0.10", true)]);
    check(&far("1e400"), &[("args.n > 5 && args.n != 5", true)]);
    check(&far("-1e400"), &[("args.n < 0.5", true)]);
    let digits = "the number has too many digits";
    check_fails(&far(&"9".repeat(1000)), &[("args.n > 5", digits)]);
    check_fails(&far("1e99999999999999999999"), &[("args.n > 5", digits)]);
    check_fails(&far(&format!("1{}1", "0".repeat(50))), &[("args.n > 5", digits)]);
    check(&far(&format!("0.{}e60", "0".repeat(50))), &[("args.n == 0", true)]);
}

#[test]
fn what_some_readers_take_for_something_else_is_an_error() {
    let alike = "a field is that one but for its case, and some readers would take it for it";
    for arguments in [r#"{"path": "/a", "Path": "/b"}"#, r#"{"PATH": "/b"}"#, r#"{"\u0050ath": 1}"#] {
        check_fails(arguments, &[("args.path == '/a'", alike), ("has(args.path)", alike)]);
    }
    let nul = "the text contains NUL, which ends it for some readers";
    check_fails(r#"{"path": "/etc\u0000"}"#, &[("args.path == '/etc'", nul)]);
    check(
        r#"{"__proto__": {"path": "/etc"}, "other": 1}"#,
        &[("has(args.path)", false), ("'path' in args", false)],
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let told = |text: &str| evaluate(text, "{}").unwrap_err();
    let check = |text, expected| assert_eq!(told(text), expected, "{text}");
    check(
        "caller.nmaespace == 'x'",
        "line 1, column 8 of the expression: unknown field `nmaespace`; did you mean `namespace`? (expected one of: id, trustDomain, namespace, serviceAccount, tenant)",
    );
    check(
        "args.a == 1\n  && arg.b",
        "line 2, column 6 of the expression: unknown name `arg`; did you mean `args`? (expected one of: caller, request, args, claims)",
    );
    check("args.é == 1", "line 1, column 6 of the expression: 'é' is not part of the language");
    check("args.a", "line 1, column 6 of the expression: there is no field \"a\"");
    check("request.tool", "line 1, column 9 of the expression: this is a text, expected true or false");
    check("1 + 1", "line 1, column 3 of the expression: this is a number, expected true or false");
    check("request.tool == 1", "line 1, column 14 of the expression: a text is never equal to a number");
    check("request.tool < 1", "line 1, column 14 of the expression: a text and a number have no order");
    check("args < 1", "line 1, column 1 of the expression: an object has no order");
    check("args.a = 1", "line 1, column 8 of the expression: `=` compares nothing; use `==`");
    check(
        "args.a.matches('x')",
        "line 1, column 8 of the expression: there are no regular expressions; use `glob`, as in `args.x.glob(\"*.txt\")`",
    );
    check(
        "args.a.startswith('x')",
        "line 1, column 8 of the expression: unknown function `startswith`; did you mean `startsWith`? (expected one of: startsWith, endsWith, contains, glob, lowerAscii, size, all, exists)",
    );
    check(
        "args.a.glob('a**')",
        "line 1, column 13 of the expression: pattern has two stars in a row; expected one '*' for any run of characters",
    );
    check(
        "args.a.glob(args.b)",
        "line 1, column 18 of the expression: the pattern of `glob` is written out, as in `glob(\"*.txt\")`",
    );
    check("has(args)", "line 1, column 1 of the expression: `has` asks for a field: `has(args.x)`");
    check(
        "startsWith(args.a, 'x')",
        "line 1, column 1 of the expression: `startsWith` is called on a value: `args.x.startsWith(…)`",
    );
    check("args.a ==", "line 1, column 10 of the expression: expected a value, found the end");
    check("(args.a", "line 1, column 8 of the expression: expected `)`, found the end");
    check("args.a 'x'", "line 1, column 8 of the expression: expected an operator or the end, found a text");
    check("'abc", "line 1, column 1 of the expression: the text does not end");
    check(r"'\q' == ''", "line 1, column 2 of the expression: `\\q` is no escape");
    check(r"'\ud800' == ''", "line 1, column 2 of the expression: the escape stands for no letter");
    check("1u == 1", "line 1, column 2 of the expression: there are no unsigned numbers; leave the `u` out");
    check(
        "{'a': 1} == args",
        "line 1, column 1 of the expression: there are no maps to be made; compare the fields",
    );
    check("args.l.all(args, true)", "line 1, column 12 of the expression: `args` has a meaning already");
    check(
        "true ? 1 : 'a'",
        "line 1, column 6 of the expression: this is either a number or a text; both must be alike",
    );
    check(
        "caller == 'x'",
        "line 1, column 1 of the expression: `caller` is no value; its fields are id, trustDomain, namespace, serviceAccount, tenant",
    );
    check("", "the text is empty; leave the field out instead");
}

#[test]
fn texts_have_the_escapes_of_cel() {
    check(
        r#"{"t": "a\"b\\\n\u00e9"}"#,
        &[
            (r#"args.t == "a\"b\\\n\u00e9""#, true),
            (r#"args.t == 'a"b\\\n\xe9'"#, true),
            (r#"args.t == "a\042b\134\012é""#, true),
            ("args.t == r'a\"b\\' + '\\n\\U000000e9'", true),
            ("args.t == '''a\"b\\\\\né'''", true),
            ("'a' == \"\"\"a\"\"\" // a comment\n && '' == ''", true),
        ],
    );
}

#[test]
fn what_would_cost_too_much_is_refused_before_it_runs() {
    let problem = |text: &str| text.parse::<Condition>().unwrap_err().to_string();
    check("{}", &[("args == args ? true : true || [1].all(a, [2].all(b, a < b))", true)][1..]);
    let nested = "args.a.all(a, a.all(b, b.all(c, c.all(d, d == 1))))";
    assert!(problem(nested).contains("at most 20000 are allowed"), "{}", problem(nested));
    let deep = format!("{}true{}", "(".repeat(200), ")".repeat(200));
    assert!(problem(&deep).ends_with("the expression is nested more than 48 deep"));
    for operator in ["!", "-"] {
        assert!(problem(&format!("{}true", operator.repeat(2000))).ends_with("deep"));
    }
    for long in ["1 + ".repeat(60) + "1 == 1", "true ? true : ".repeat(100) + "true", "[".repeat(400)] {
        assert!(problem(&long).ends_with("the expression is nested more than 48 deep"), "{long}");
    }
    assert!(problem(&format!("{}true", "true&&".repeat(600))).ends_with("more than 512 parts"));
    assert!(format!("{}true", "true&&".repeat(400)).parse::<Condition>().is_ok());
    assert!(problem(&format!("'{}' == ''", "a".repeat(5000))).ends_with("at most 4096 are allowed"));
}

#[test]
fn what_costs_too_much_all_the_same_is_ended() {
    let long = format!(r#"{{"l": [{}1]}}"#, "1,".repeat(20_000));
    let too_long = "the evaluation takes too long";
    check_fails(&long, &[("args.l.all(a, args.l.all(b, a == b))", too_long)]);
    check_fails(&long, &[("args.l.all(a, a in args.l) || true == args.l.exists(b, b == 2)", too_long)]);
    let large = format!(r#"{{"t": "{}"}}"#, "a".repeat(2 << 20));
    let many = "args.t.contains('b') || ".repeat(40) + "false";
    check_fails(&large, &[(&many, too_long)]);
    let doubled = "(args.t + args.t + args.t + args.t + args.t + args.t).size() > 1";
    check_fails(&large, &[(doubled, too_long)]);
    check(&large, &[("args.t.contains('b')", false)]);
}

#[test]
fn copies_of_elements_count_for_what_they_are() {
    let escaped = format!(r#"{{"t": "\u0061{}"}}"#, "a".repeat(1 << 20));
    let uses = "l.size() == 1 && ".repeat(40);
    let text = format!("[[args.t]].exists(l, {uses}true)");
    check_fails(&escaped, &[(&text, "the evaluation takes too long")]);
}

/// What the documentation shows is as it says.
#[test]
fn the_examples_of_the_documentation_are_expressions() {
    let page = include_str!("../../../docs/expressions.md");
    let examples = |field: &str| {
        let texts = page.lines().filter_map(|line| line.strip_prefix(field)?.strip_suffix('\''));
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    let (conditions, weights) = (examples("when: '"), examples("cost: '"));
    assert!(conditions.len() >= 3 && !weights.is_empty());
    conditions.iter().for_each(|text| _ = text.parse::<Condition>().unwrap());
    weights.iter().for_each(|text| _ = text.parse::<Weight>().unwrap());
    for bound in [TEXT_BYTES_MAX.to_string(), NODES_MAX.to_string(), DEPTH_MAX.to_string()] {
        assert!(page.contains(&bound), "{bound}");
    }
    assert!(page.contains("20,000 steps, at 32 elements") && page.contains("200,000 steps"));
    assert_eq!((COST_STEPS_MAX, ELEMENTS_ASSUMED, STEPS_MAX, BYTES_PER_STEP), (20_000, 32, 200_000, 64));
}

#[test]
fn a_weight_is_a_whole_number_of_bounded_size() {
    let weigh = |text: &str, arguments: &str| {
        let weight: Weight = text.parse().unwrap();
        let (caller, server) = (caller(), ServerName::parse("a/b").unwrap());
        let arguments = Some(Raw::scan(arguments, 64).unwrap());
        let facts = Facts { caller: &caller, server: &server, method: "tools/call", target: None, arguments };
        weight.evaluate(&facts, &Meter::default()).map_err(|failure| weight.told(&failure))
    };
    assert_eq!(weigh("1 + size(args.text) / 1000", r#"{"text": "abc"}"#), Ok(1));
    assert_eq!(weigh("args.n", r#"{"n": 0.2}"#), Ok(1));
    assert_eq!(weigh("args.n * 1.5", r#"{"n": 3}"#), Ok(5));
    for n in ["-1", "1000000001", "1e400", "18446744073709551615", "\"1\"", "-0.5e3"] {
        assert!(weigh("args.n", &format!(r#"{{"n": {n}}}"#)).is_err(), "{n}");
    }
    assert!("request.tool".parse::<Weight>().is_err());
    assert!("true".parse::<Weight>().is_err());
}

#[test]
fn expressions_are_equal_by_their_text() {
    let parse = |text: &str| text.parse::<Condition>().unwrap();
    assert_eq!(parse("true"), parse("true"));
    assert_ne!(parse("true"), parse("true "));
    assert!(parse("args.x == 1").reads_arguments());
    assert!(!parse("request.tool == 'a' && has(claims.x)").reads_arguments());
}

/// JSON with keys that expressions ask for, and values of which none is read differently by anyone.
fn some_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Into::into),
        (-20..20_i64).prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        (-40..40_i32).prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
        "[ab/\"\\\\é]{0,4}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let object = proptest::collection::btree_map("[a-c]", inner.clone(), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Json::from),
            object.prop_map(|it| it.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// What a naive reader makes of a path such as `args.a[0].b`.
fn naive<'j>(json: &'j Json, path: &[Step]) -> Option<&'j Json> {
    path.iter().try_fold(json, |json, step| match step {
        Step::Field(name) => json.as_object()?.get(name),
        Step::Element(place) => json.as_array()?.get(*place),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Element(usize),
}

fn some_path() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => "[a-c]".prop_map(Step::Field), 1 => (0..3_usize).prop_map(Step::Element)];
    proptest::collection::vec(step, 0..3).prop_map(|mut steps| {
        steps.insert(0, Step::Field("a".to_owned()));
        steps
    })
}

fn written(path: &[Step]) -> String {
    let steps = path.iter().map(|step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Element(place) => format!("[{place}]"),
    });
    format!("args{}", steps.collect::<String>())
}

fn literal(json: &Json) -> Option<String> {
    match json {
        Json::Object(_) => None,
        Json::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(literal).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Json::String(text) => Some(format!("'{}'", text.replace('\\', "\\\\"))),
        other => Some(other.to_string()),
    }
}

/// Equal as numbers are, whatever their form.
fn alike(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_that_is_written_makes_the_compiler_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Condition>();
        let _ = text.parse::<Weight>();
    }

    #[test]
    fn nothing_that_looks_like_an_expression_makes_anything_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "args", ".a", "[0]", "['a']", "(", ")", " == ", " && ", " || ", "!", "-", " in ", "has(", "size(", ".all(x, ",
            ".exists(x, ", "x", "'a'", "1", "1.5", "9007199254740993", "null", "true", "[", "]", ", ", " ? ", " : ", " + ",
            " / ", " % ", " < ", "int(", "string(", ".startsWith(", ".size()", "claims", "caller.id", "request.tool", "'", "\\",
        ]), 0..24),
        json in some_json(),
    ) {
        let _ = evaluate(&parts.concat(), &serde_json::json!({"a": json}).to_string());
    }

    #[test]
    fn what_is_found_is_what_a_reader_of_json_finds(json in some_json(), path in some_path(), pretty in any::<bool>()) {
        let json = serde_json::json!({"a": json});
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let path_text = written(&path);
        match naive(&json, &path) {
            None => {
                let asked = format!("{path_text} == 1");
                prop_assert!(evaluate(&asked, &text).is_err());
            }
            Some(found) => {
                if let Some(literal) = literal(found) {
                    let asked = format!("{path_text} == {literal}");
                    prop_assert_eq!(evaluate(&asked, &text), Ok(true));
                }
                let size = match found {
                    Json::String(it) => Some(it.chars().count()),
                    Json::Array(it) => Some(it.len()),
                    Json::Object(it) => Some(it.len()),
                    Json::Null | Json::Bool(_) | Json::Number(_) => None,
                };
                let asked = size.map_or_else(|| format!("size({path_text}) >= 0"), |size| format!("size({path_text}) == {size}"));
                prop_assert_eq!(evaluate(&asked, &text).ok(), size.map(|_| true));
            }
        }
    }

    #[test]
    fn comparing_agrees_with_a_naive_reader(a in some_json(), b in some_json()) {
        let text = serde_json::json!({"a": a, "b": b}).to_string();
        if let Ok(equal) = evaluate("args.a == args.b", &text) {
            prop_assert_eq!(equal, alike(&a, &b));
            prop_assert_eq!(evaluate("args.a != args.b", &text), Ok(!equal));
            prop_assert_eq!(evaluate("args.a in [args.b]", &text), Ok(equal));
        }
        let order = match (&a, &b) {
            (Json::Number(a), Json::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
            _ => None,
        };
        prop_assert_eq!(evaluate("args.a < args.b", &text).ok(), order.map(std::cmp::Ordering::is_lt));
        prop_assert_eq!(evaluate("args.a >= args.b", &text).ok(), order.map(std::cmp::Ordering::is_ge));
    }

    /// Readers that take numbers for doubles, and readers that take them as they are written, never come to different
    /// outcomes: either all come to this one, or there is none.
    #[test]
    fn no_two_readers_come_to_different_outcomes(
        a in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,18})?(e-?[0-9]{1,2})?", near in -3..3_i64,
    ) {
        let double: f64 = a.parse().unwrap();
        #[expect(clippy::cast_possible_truncation, reason = "near enough")]
        let b = (double as i64).saturating_add(near);
        let text = format!(r#"{{"a": {a}, "b": {b}}}"#);
        #[expect(clippy::cast_precision_loss, reason = "that is how such readers see it")]
        let seen = double.partial_cmp(&(b as f64)).unwrap();
        for (operator, expected) in [("==", seen.is_eq()), ("<", seen.is_lt()), (">=", seen.is_ge())] {
            let asked = format!("args.a {operator} args.b");
            if let Ok(outcome) = evaluate(&asked, &text) {
                prop_assert_eq!(outcome, expected, "{} {} {}", a, operator, b);
            }
        }
    }
}

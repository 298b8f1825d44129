use super::*;

fn limits() -> Limits {
    Limits::new(128 << 10, 64 << 20)
}

fn compile(schema: &str) -> Schema {
    Schema::compile(schema, &limits()).unwrap()
}

#[track_caller]
fn check(schema: &str, arguments: &str, expected: Result<(), &[&str]>) {
    check_hiding(&[], schema, arguments, expected);
}

#[track_caller]
fn check_hiding(redacted: &[&str], schema: &str, arguments: &str, expected: Result<(), &[&str]>) {
    let redaction = Redaction::new(redacted.iter().copied());
    let found = compile(schema).check(arguments, &redaction);
    let found = found.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>());
    let expected = expected.map_err(|lines| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
    assert_eq!(found, expected, "{arguments} against {schema}");
}

#[test]
fn problems_are_told_with_their_place_and_what_was_wanted() {
    let schema = r#"{"type":"object","required":["path"],"additionalProperties":false,"properties":{
        "path":{"type":"string","pattern":"^/data/","maxLength":20},
        "mode":{"enum":["r","w"]},
        "lines":{"type":"array","items":{"type":"integer","minimum":1},"maxItems":2}}}"#;
    check(schema, r#"{"path":"/data/x","mode":"r","lines":[1,2]}"#, Ok(()));
    check(schema, "{}", Err(&[r#"lacks "path""#]));
    check(schema, r#"{"path":5}"#, Err(&["path: is not of the type string"]));
    check(schema, r#"{"path":"/etc/shadow"}"#, Err(&["path: does not match the pattern ^/data/"]));
    check(schema, r#"{"path":"/data/","mode":"x"}"#, Err(&[r#"mode: is none of ["r","w"]"#]));
    check(schema, r#"{"path":"/data/","lines":[1,0]}"#, Err(&["lines[1]: is less than 1"]));
    check(schema, r#"{"path":"/data/","lines":[1,2,3]}"#, Err(&["lines: has more than 2 items"]));
    check(schema, r#"{"path":"/data/","x":1,"y":2}"#, Err(&[r#"has keys that are not known: "x", "y""#]));
}

#[test]
fn no_value_of_a_call_is_told_and_of_what_is_redacted_not_even_the_keys() {
    let schema = r#"{"properties":{"token":{"type":"string","pattern":"^a$"},"user":{"additionalProperties":{"type":"integer"}},
        "list":{"items":{"properties":{"key":{"type":"integer"}}}}}}"#;
    for arguments in
        [r#"{"token":"hunter2"}"#, r#"{"user":{"x":"hunter2"}}"#, r#"{"list":[{"key":"hunter2"}]}"#]
    {
        let problems = compile(schema).check(arguments, &Redaction::default()).unwrap_err();
        assert!(!problems[0].to_string().contains("hunter2"), "{problems:?}");
    }
    check_hiding(
        &["user"],
        schema,
        r#"{"user":{"hunter2":"x"}}"#,
        Err(&["user: is not as the schema wants"]),
    );
    check_hiding(
        &["list.key"],
        schema,
        r#"{"list":[{"key":"x"}]}"#,
        Err(&["list.key: is not as the schema wants"]),
    );
    let closed = r#"{"properties":{"a":{}},"additionalProperties":false}"#;
    check_hiding(&["secret"], closed, r#"{"secret":1,"b":2}"#, Err(&[r#"has keys that are not known: "b""#]));
}

#[test]
fn problems_are_few_and_short() {
    let schema = r#"{"additionalProperties":{"type":"string"}}"#;
    let problems = |keys: usize| {
        let many: Vec<_> = (0..keys).map(|n| format!("\"{n}{}\":1", "k".repeat(500))).collect();
        let arguments = format!("{{{}}}", many.join(","));
        compile(schema).check(&arguments, &Redaction::default()).unwrap_err()
    };
    let some = problems(PROBLEMS_MAX + 2);
    assert_eq!(some.len(), PROBLEMS_MAX);
    assert!(some.iter().all(|it| it.to_string().len() < 300));
    assert_eq!(problems(100).len(), 1, "of large arguments only the first is looked for");
}

#[test]
fn whole_numbers_that_readers_see_differently_are_refused_where_numbers_are_compared() {
    let compared = r#"{"properties":{"n":{"type":"integer","maximum":9007199254740993}}}"#;
    let refused: Result<(), &[&str]> =
        Err(&["a whole number is beyond ±2^53, where not every reader sees the same"]);
    check(compared, r#"{"n":9007199254740992}"#, Ok(()));
    check(compared, r#"{"n":9007199254740993}"#, refused);
    check(compared, r#"{"n":-9007199254740993}"#, refused);
    check(compared, r#"{"n":1,"other":[123456789012345678901234567890]}"#, refused);
    check(compared, r#"{"n":1,"other":"9007199254740993\"9007199254740993"}"#, Ok(()));
    check(compared, r#"{"n":1.00000000000000000001}"#, Ok(()));
    let typed = r#"{"properties":{"n":{"type":"integer"}}}"#;
    for n in
        ["9007199254740993", "18446744073709551616", "123456789012345678901234567890", "-9223372036854775809"]
    {
        check(typed, &format!("{{\"n\":{n}}}"), Ok(()));
    }
    check(typed, r#"{"n":1e400}"#, Err(&["a number is out of range"]));
}

#[test]
fn a_schema_says_which_draft_it_is_of() {
    let tuple = |schema: &str| {
        format!(r#"{{"$schema":"{schema}","properties":{{"a":{{"items":[{{"type":"string"}}]}}}}}}"#)
    };
    let wrong = r#"{"a":[1]}"#;
    let told: Result<(), &[&str]> = Err(&["a[0]: is not of the type string"]);
    check(&tuple("http://json-schema.org/draft-07/schema#"), wrong, told);
    check(&tuple("https://json-schema.org/draft/2019-09/schema"), wrong, told);
    let prefix = r#"{"properties":{"a":{"prefixItems":[{"type":"string"}]}}}"#;
    check(prefix, wrong, told);
    let unknown = Schema::compile(&tuple("https://example.com/mine"), &limits()).unwrap_err();
    assert_eq!(unknown, Unusable::Draft("https://example.com/mine".to_owned()));
}

#[test]
fn formats_are_remarks() {
    check(r#"{"properties":{"a":{"format":"email"}}}"#, r#"{"a":"no"}"#, Ok(()));
    let seventh = r#"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"a":{"format":"email",
        "contentEncoding":"base64","contentMediaType":"application/json"}}}"#;
    check(seventh, r#"{"a":"{"}"#, Ok(()));
}

#[test]
fn schemas_that_lead_elsewhere_or_never_end_are_not_used() {
    let check = |schema: &str, expected: fn(&Unusable) -> bool| {
        let found = Schema::compile(schema, &limits()).unwrap_err();
        assert!(expected(&found), "{schema}: {found}");
    };
    check(r#"{"$ref":"https://example.com/x"}"#, |it| matches!(it, Unusable::Elsewhere(_)));
    check(r##"{"$ref":"#"}"##, |it| matches!(it, Unusable::Circular));
    check(r#"{"type":"objekt"}"#, |it| matches!(it, Unusable::Invalid(_)));
    check(r#"{"properties":{"a":{"pattern":"(?=x)y"}}}"#, |it| matches!(it, Unusable::Invalid(_)));
    check(r#"{"properties":{"a":{"pattern":"(a{1000}){1000}"}}}"#, |it| matches!(it, Unusable::Invalid(_)));
    check(&format!(r#"{{"description":"{}"}}"#, "x".repeat(129 << 10)), |it| {
        matches!(it, Unusable::TooLarge { .. })
    });
    check("5", |it| matches!(it, Unusable::Invalid(_)));
}

#[test]
fn the_deepest_that_is_taken_fits_the_stack() {
    let chain_of = |links: usize| {
        let mut chain = serde_json::Map::new();
        for n in 0..links {
            let next = serde_json::json!({ "$ref": format!("#/$defs/n{}", n + 1) });
            chain.insert(format!("n{n}"), serde_json::json!({ "allOf": [next] }));
        }
        let last = serde_json::json!({ "additionalProperties": { "$ref": "#" }, "minProperties": 1 });
        chain.insert(format!("n{links}"), last);
        serde_json::json!({ "$ref": "#/$defs/n0", "$defs": chain }).to_string()
    };
    assert_eq!(Schema::compile(&chain_of(6), &limits()).unwrap_err(), Unusable::TooComplex);
    // Arguments as deep as messages may be, wrong at the bottom.
    let arguments = format!("{}{{}}{}", "{\"a\":".repeat(62), "}".repeat(62));
    assert!(compile(&chain_of(4)).check(&arguments, &Redaction::default()).is_err());
}

#[test]
fn a_name_that_a_schema_gives_itself_leads_nowhere() {
    let schema = r##"{"$id":"http://json-schema.org/draft-07/schema#","properties":{"a":{"$ref":"#/$defs/n"}},
        "$defs":{"n":{"type":"integer"}}}"##;
    check(schema, r#"{"a":"x"}"#, Err(&["a: is not of the type integer"]));
}

#[test]
fn a_pattern_that_would_backtrack_takes_no_time() {
    let schema = compile(r#"{"properties":{"a":{"pattern":"^(a+)+$"}}}"#);
    let arguments = format!("{{\"a\":\"{}b\"}}", "a".repeat(50_000));
    let began = std::time::Instant::now();
    assert!(schema.check(&arguments, &Redaction::default()).is_err());
    assert!(began.elapsed().as_secs() < 5);
}

/// The longest that judging may take here, where other tests run beside it.
const SOON: std::time::Duration = std::time::Duration::from_secs(5);

#[test]
fn no_schema_makes_judging_slow_however_its_values_and_patterns_are_chosen() {
    let list =
        |count: usize, each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<Vec<_>>().join(",");
    let zeros = |count: usize| list(count, &|_| "0".to_owned());
    let mixed = format!(r#"{{"items":{{"enum":[{}]}}}}"#, list(30_000, &|n| n.to_string()));
    let alike = format!(r#"{{"items":{{"enum":[{}]}}}}"#, list(400, &|n| format!("[{},{n}]", zeros(100))));
    let required = format!(r#"{{"items":{{"required":[{}]}}}}"#, list(12_000, &|n| format!("\"k{n}\"")));
    let states = r#"{"items":{"pattern":"(a|b)*a(a|b){700}$"}}"#.to_owned();
    let keys = r#"{"patternProperties":{"(a|b)*a(a|b){700}$":{}},"additionalProperties":true}"#.to_owned();
    let empty = format!("[{}]", list(1_000_000, &|_| "{}".to_owned()));
    let halves = format!("[{}]", list(1_000_000, &|_| "0.5".to_owned()));
    let lists = format!("[{}]", list(10_000, &|_| format!("[{},-1]", zeros(100))));
    let letters = |count: usize| (0..count).map(|n| if n % 3 == 0 { 'a' } else { 'b' }).collect::<String>();
    let text = format!("[\"{}c\"]", letters(2 << 20));
    let key = format!("{{\"{}c\":1}}", letters(2 << 20));
    for (schema, arguments) in
        [(&mixed, &halves), (&alike, &lists), (&required, &empty), (&states, &text), (&keys, &key)]
    {
        let began = std::time::Instant::now();
        if let Ok(schema) = Schema::compile(schema, &limits()) {
            let _ = schema.check(arguments, &Redaction::default());
        }
        let took = began.elapsed();
        assert!(took < SOON, "{took:?} for {}", clip(schema));
    }
}

#[test]
fn a_schema_that_would_take_much_memory_is_not_made() {
    let long = "k".repeat(60_000);
    let many: Vec<_> = (0..2000).map(|n| format!("\"a{n}\":{{\"type\":\"string\"}}")).collect();
    let far = format!(r#"{{"properties":{{"{long}":{{"properties":{{{}}}}}}}}}"#, many.join(","));
    let patterns: Vec<_> =
        (0..60).map(|n| format!("\"a{n}\":{{\"pattern\":\"[a-z{n}]{{1,900}}\"}}")).collect();
    let heavy = format!(r#"{{"properties":{{{}}}}}"#, patterns.join(","));
    for schema in [far, heavy] {
        assert_eq!(
            Schema::compile(&schema, &limits()).unwrap_err(),
            Unusable::TooComplex,
            "{}",
            clip(&schema)
        );
    }
    // Of what is ordinary there is room for many.
    let ordinary = r#"{"required":["path"],"properties":{"path":{"type":"string","pattern":"^/data/"},
        "name":{"type":"string","pattern":"^[a-z0-9-]{1,63}$"},"mode":{"enum":["r","w"]},"n":{"maximum":5}}}"#;
    let limits = limits();
    let kept: Vec<_> = (0..500).map(|_| Schema::compile(ordinary, &limits).unwrap()).collect();
    assert!(kept.iter().all(|it| it.work.bytes < 128 << 10));
}

#[test]
fn what_a_schema_compares_with_is_told_by_its_beginning() {
    let options: Vec<_> = (0..1000).map(|n| format!("\"{n}é\"")).collect();
    let schema = compile(&format!(r#"{{"properties":{{"a":{{"enum":[{}]}}}}}}"#, options.join(",")));
    let told = schema.check(r#"{"a":"x"}"#, &Redaction::default()).unwrap_err()[0].to_string();
    assert!(told.starts_with(r#"a: is none of ["0é","1é","#) && told.ends_with('…'), "{told}");
    assert!(told.chars().count() < 150);
}

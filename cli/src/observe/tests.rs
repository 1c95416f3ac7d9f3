use super::*;

fn plan(args: &str) -> Result<Plan, Error> {
    let words = ["weft", "observe"]
        .into_iter()
        .chain(args.split_whitespace());
    let matches = crate::command()
        .try_get_matches_from(words)
        .unwrap_or_else(|error| panic!("{args}: {error}"));
    Plan::new(matches.subcommand_matches("observe").unwrap())
}

fn request(args: &str) -> GetFlowsRequest {
    plan(args)
        .unwrap_or_else(|error| panic!("{args}: {error}"))
        .request
}

fn refusal(args: &str) -> String {
    plan(args)
        .err()
        .unwrap_or_else(|| panic!("{args} must be refused"))
        .to_string()
}

#[test]
fn how_many_flows() {
    let number = |args| {
        let request = request(args);
        (request.number, request.first, request.follow)
    };
    assert_eq!(number(""), (20, false, false));
    assert_eq!(number("--last 3"), (3, false, false));
    assert_eq!(number("--first 3"), (3, true, false));
    assert_eq!(number("--all"), (u64::MAX, false, false));
    assert_eq!(number("-f"), (0, false, true));
    assert_eq!(number("-f --last 5"), (5, false, true));
    assert_eq!(number("--since 5m"), (0, false, false));
    assert_eq!(number("--input-file x"), (0, false, false));
}

#[test]
fn following_has_no_end() {
    assert!(request("--until 2024-08-12").until.is_some());
    assert!(request("-f --until 2024-08-12").until.is_none());
}

#[test]
fn without_a_direction_either_end_matches() {
    let filters = request("--pod tie --protocol http").whitelist;
    let [from, to] = &filters[..] else {
        panic!("two alternatives: {filters:?}")
    };
    assert_eq!(
        (&from.source_pod[..], from.destination_pod.len()),
        (&["tie".to_owned()][..], 0)
    );
    assert_eq!(
        (to.source_pod.len(), &to.destination_pod[..]),
        (0, &["tie".to_owned()][..])
    );
    assert_eq!(from.protocol, to.protocol);
    assert_eq!(request("--from-pod tie --to-pod x").whitelist.len(), 1);
}

#[test]
fn not_reverses_only_the_next_filter() {
    let request = request("--not --protocol http --verdict DROPPED");
    assert_eq!(request.blacklist.len(), 1);
    assert_eq!(request.blacklist[0].protocol, ["http"]);
    assert!(request.blacklist[0].verdict.is_empty());
    assert_eq!(request.whitelist[0].verdict.len(), 1);
    assert!(refusal("--protocol http --not").contains("trailing --not"));
    assert!(refusal("--not --not --protocol http").contains("consecutive --not"));
}

#[test]
fn namespaces_qualify_names() {
    let filters = request("-n shop --service web").whitelist;
    assert_eq!(filters[0].source_service, ["shop/web"]);
    assert_eq!(filters[1].destination_service, ["shop/web"]);
    assert_eq!(
        request("--to-namespace shop").whitelist[0].destination_pod,
        ["shop/"]
    );
    assert_eq!(request("-A").whitelist[0].source_pod, ["/"]);
    assert!(refusal("--from-namespace shop --from-pod default/web").contains("namespace conflict"));
}

#[test]
fn contradictions_are_refused() {
    for (args, reason) in [
        (
            "--ip 10.0.0.1 --pod x",
            "filters --ip and --pod cannot be combined",
        ),
        ("--port 80 --to-port 80", "cannot be combined"),
        ("--first 1 --last 1", "cannot set both --first and --last"),
        ("--first 1 -f", "cannot set both --first and --follow"),
        ("-o table -f", "not compatible with follow"),
        (
            "-o xml",
            "invalid output format: xml, expected one of [compact dict jsonpb json table tab]",
        ),
        (
            "--verdict denied",
            "invalid --verdict value: denied, expected one of [FORWARDED DROPPED ERROR AUDIT \
             REDIRECTED TRACED TRANSLATED]",
        ),
        ("--field-mask time", "not compatible with custom field mask"),
        ("--since yesterday", "failed to parse the since time"),
    ] {
        let refusal = refusal(args);
        assert!(refusal.contains(reason), "{args}: {refusal}");
    }
}

#[test]
fn text_asks_for_what_it_shows_and_json_for_everything() {
    let mask = |args| request(args).field_mask.map(|mask| mask.paths);
    assert!(mask("").is_some_and(|paths| paths.contains(&"traffic_direction".to_owned())));
    assert_eq!(mask("-o jsonpb"), None);
    assert_eq!(mask("--use-default-field-masks=false"), None);
    assert_eq!(
        mask("-o json --field-mask time,source.pod_name"),
        Some(vec!["time".to_owned(), "source.pod_name".to_owned()])
    );
}

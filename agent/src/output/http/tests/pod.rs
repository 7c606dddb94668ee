//! The pages about one pod.

use super::{super::api::ApiError, ask, fixture};
use crate::output::{
    api::pod::{PodPage, RulesPage, WhyPage},
    fixture::rules::{WHOLE, board, torn},
};

async fn get(path: &'static str) -> super::Answer {
    ask(fixture::view(board(WHOLE)), "GET", path).await
}

#[tokio::test]
async fn a_pod_has_a_page_of_its_own() {
    let answer = get("/v1/pods/shop/cart-1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["pod"]["name"], "cart-1");
    assert_eq!(answer.json()["node"], "node-1");
    let page: PodPage = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(page.row.netns, Some(100));
    // Pods that only the node knows have no namespace.
    let nameless = ask(fixture::view(fixture::board()), "GET", "/v1/pods/-/batch").await;
    assert_eq!(nameless.status, 200);
}

#[tokio::test]
async fn rules_come_with_marks() {
    let answer = get("/v1/pods/shop/cart-1/rules").await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!(json["total"], 8);
    assert_eq!(json["tables"][0]["backend"], "nft");
    assert_eq!(json["tables"][0]["chains"][0]["base"]["hook"], "prerouting");
    let page: RulesPage = serde_json::from_str(&answer.body).unwrap();
    let chains = &page.rules.tables[0].chains;
    assert!(chains.iter().all(|chain| !chain.stray));
    let redirect = chains.iter().find(|c| c.name == "MESH_REDIRECT").unwrap();
    assert!(redirect.rules[0].redirects && redirect.rules[0].marks[0].decides);
    let lost = ask(
        fixture::view(board(&torn())),
        "GET",
        "/v1/pods/shop/cart-1/rules",
    )
    .await;
    let page: RulesPage = serde_json::from_str(&lost.body).unwrap();
    let chains = &page.rules.tables[0].chains;
    let strays = chains.iter().filter(|c| c.stray).map(|c| c.name.as_str());
    assert_eq!(strays.collect::<Vec<_>>(), ["MESH_OUTPUT", "MESH_REDIRECT"]);
    // A pod whose rules were not read has an empty page, and says so.
    let unread = get("/v1/pods/shop/plain/rules").await.json();
    assert_eq!(unread["read"], serde_json::Value::Null);
}

#[tokio::test]
async fn rules_are_on_no_other_page() {
    for path in [
        "/v1/pods",
        "/v1/pods/shop/cart-1",
        "/v1/findings",
        "/metrics",
    ] {
        let answer = get(path).await;
        assert!(!answer.body.contains("MESH_"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn why_answers_both_ways() {
    let out = get("/v1/pods/shop/cart-1/why?to=10.9.0.1:80&uid=5&gid=6").await;
    assert_eq!(out.status, 200);
    let json = out.json();
    assert_eq!(json["conclusion"]["agreement"], "agree");
    assert_eq!(json["wanted"]["way"], "captured");
    assert_eq!(json["by"]["uid"], 5);
    assert_eq!(json["live"]["path"]["decided_by"]["chain"], "MESH_REDIRECT");
    let page: WhyPage = serde_json::from_str(&out.body).unwrap();
    assert_eq!(serde_json::to_value(&page).unwrap(), json);
    let inbound = get("/v1/pods/shop/cart-1/why?from=fd00::9&port=8080").await;
    assert_eq!(inbound.json()["ask"]["direction"], "inbound");
    let udp = get("/v1/pods/shop/cart-1/why?to=10.9.0.1:53&protocol=udp").await;
    assert_eq!(udp.json()["ask"]["protocol"], "udp");
}

/// Path, status, and words of the error.
const MISTAKES: [(&str, u16, &str); 18] = [
    ("/v1/pods/shop/none", 404, "no pod shop/none"),
    ("/v1/pods/shop/none/rules", 404, "no pod shop/none"),
    (
        "/v1/pods/shop/none/why?to=10.0.0.1:1",
        404,
        "no pod shop/none",
    ),
    ("/v1/pods/other/cart-1/rules", 404, "no pod other/cart-1"),
    ("/v1/pods/shop/cart-1/rulez", 404, "nothing here"),
    ("/v1/pods/shop/cart-1/rules?family=ipv4", 400, "family"),
    ("/v1/pods/shop/cart-1/why", 400, "no connection is named"),
    (
        "/v1/pods/shop/cart-1/why?to=10.0.0.1",
        400,
        "not an address and a port",
    ),
    (
        "/v1/pods/shop/cart-1/why?to=10.0.0.1:0",
        400,
        "0 is not a port",
    ),
    (
        "/v1/pods/shop/cart-1/why?to=10.0.0.1:1&port=2",
        400,
        "excludes",
    ),
    (
        "/v1/pods/shop/cart-1/why?from=10.0.0.1",
        400,
        "port of the pod is missing",
    ),
    (
        "/v1/pods/shop/cart-1/why?from=me&port=80",
        400,
        "not an address",
    ),
    (
        "/v1/pods/shop/cart-1/why?from=10.0.0.1&port=0",
        400,
        "0 is not a port",
    ),
    (
        "/v1/pods/shop/cart-1/why?from=10.0.0.1&port=80&uid=1",
        400,
        "elsewhere",
    ),
    (
        "/v1/pods/shop/cart-1/why?to=10.0.0.1:1&uid=root",
        400,
        "uid",
    ),
    (
        "/v1/pods/shop/cart-1/why?to=10.0.0.1:1&protocol=sctp",
        400,
        "sctp",
    ),
    ("/v1/pods/shop/cart-1/why?to=10.0.0.1:1&via=x", 400, "via"),
    ("/v1/pods/%ff/cart-1/why?to=10.0.0.1:1", 400, ""),
];

#[tokio::test]
async fn mistakes_about_a_pod_are_answered_with_what_to_do() {
    for (path, status, words) in MISTAKES {
        let answer = get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!(answer.content_type, "application/json", "{path}");
        let error: ApiError = serde_json::from_str(&answer.body).unwrap();
        assert!(error.error.contains(words), "{path}: {error:?}");
        assert!(!error.to_do.is_empty() && !error.place.is_empty(), "{path}");
    }
    let elsewhere = get("/v1/pods/other/cart-1").await;
    let error: ApiError = serde_json::from_str(&elsewhere.body).unwrap();
    assert!(error.to_do.contains("shop/cart-1"), "{error:?}");
}

//! Queries in, answers out, as bytes. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names::{Answer, Cluster, resolve};

/// Seconds that clients may keep an answer: short, services come and go.
const TTL: u32 = 5;
/// Aliases followed in one answer.
const MOST_ALIASES: usize = 8;

/// Answers a query. `most` is the largest answer that the transport takes.
/// `None` when the bytes are no query: those get no answer.
pub(super) fn answer(query: &[u8], most: Option<usize>, cluster: &impl Cluster) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let response = respond(&query, cluster);
    let bytes = response.to_vec().ok()?;
    let fits = most
        .unwrap_or(usize::MAX)
        .max(usize::from(query.max_payload()));
    match most {
        Some(_) if bytes.len() > fits => response.truncate().to_vec().ok(),
        _ => Some(bytes),
    }
}

fn respond(query: &Message, cluster: &impl Cluster) -> Message {
    let meta = &query.metadata;
    let mut response = Message::response(meta.id, meta.op_code);
    response.metadata.recursion_desired = meta.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        response.set_edns(edns);
    }
    if meta.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return response;
    }
    let [question] = query.queries.as_slice() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    };
    if question.query_class() != DNSClass::IN {
        response.metadata.response_code = ResponseCode::Refused;
        return response;
    }
    response.metadata.authoritative = true;
    fill(&mut response, question, cluster);
    response
}

fn fill(response: &mut Message, question: &Query, cluster: &impl Cluster) {
    let mut name = question.name().clone();
    for _ in 0..MOST_ALIASES {
        let text = name.to_lowercase().to_ascii();
        match resolve(text.trim_end_matches('.'), cluster) {
            Answer::Addresses(addresses) => {
                if matches!(question.query_type(), RecordType::A | RecordType::ANY) {
                    response.add_answers(
                        addresses
                            .into_iter()
                            .map(|ip| Record::from_rdata(name.clone(), TTL, RData::A(A(ip)))),
                    );
                } else {
                    deny(response, ResponseCode::NoError);
                }
                return;
            }
            Answer::Alias(target) => {
                let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.')))
                else {
                    response.metadata.response_code = ResponseCode::ServFail;
                    return;
                };
                let alias = RData::CNAME(CNAME(target.clone()));
                response.add_answer(Record::from_rdata(name, TTL, alias));
                if question.query_type() == RecordType::CNAME {
                    return;
                }
                name = target;
            }
            Answer::NoData => return deny(response, ResponseCode::NoError),
            Answer::NoName => return deny(response, ResponseCode::NXDomain),
        }
    }
    response.metadata.response_code = ResponseCode::ServFail;
}

/// A negative answer, with the SOA that says how long to believe it.
fn deny(response: &mut Message, code: ResponseCode) {
    response.metadata.response_code = code;
    let names = [
        Name::from_ascii("cluster.local."),
        Name::from_ascii("ns.dns.cluster.local."),
        Name::from_ascii("hostmaster.cluster.local."),
    ];
    if let [Ok(zone), Ok(server), Ok(contact)] = names {
        let soa = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
        response.add_authority(Record::from_rdata(zone, TTL, RData::SOA(soa)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// `many.example` has a hundred addresses, `one.example` one, `alias`
    /// points there, `loop` at itself.
    struct Fixed;

    impl Cluster for Fixed {
        fn has_namespace(&self, _: &str) -> bool {
            true
        }

        fn service(&self, _: &str, name: &str) -> Option<Answer> {
            match name {
                "alias" => Some(Answer::Alias("one.example".to_owned())),
                "loop" => Some(Answer::Alias("loop.default.svc.cluster.local".to_owned())),
                "empty" => Some(Answer::NoData),
                _ => None,
            }
        }

        fn endpoint(&self, _: &str, _: &str, _: &str) -> Option<Ipv4Addr> {
            None
        }

        fn world(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
            match name {
                "one.example" => Some(vec![Ipv4Addr::new(203, 0, 113, 1)]),
                "many.example" => Some((0..100).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect()),
                _ => None,
            }
        }
    }

    fn ask(name: &str, kind: RecordType, most: Option<usize>) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = answer(&query.to_vec().unwrap(), most, &Fixed).unwrap();
        Message::from_vec(&bytes).unwrap()
    }

    #[test]
    fn an_address_is_answered_in_the_askers_spelling() {
        let response = ask("One.Example.", RecordType::A, Some(512));
        assert_eq!(response.metadata.id, 7);
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert_eq!(response.answers.len(), 1);
        assert_eq!(response.answers[0].name.to_ascii(), "One.Example.");
    }

    #[test]
    fn other_kinds_and_missing_names_are_told_apart() {
        let aaaa = ask("one.example.", RecordType::AAAA, Some(512));
        assert_eq!(aaaa.metadata.response_code, ResponseCode::NoError);
        assert!(aaaa.answers.is_empty());
        assert_eq!(aaaa.authorities.len(), 1);
        let none = ask("none.example.", RecordType::A, Some(512));
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
        let empty = ask("empty.default.svc.cluster.local.", RecordType::A, Some(512));
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn aliases_are_followed_but_not_for_ever() {
        let response = ask("alias.default.svc.cluster.local.", RecordType::A, Some(512));
        assert_eq!(response.answers.len(), 2);
        let response = ask("loop.default.svc.cluster.local.", RecordType::A, Some(512));
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn long_answers_go_over_tcp() {
        let udp = ask("many.example.", RecordType::A, Some(512));
        assert!(udp.metadata.truncation && udp.answers.is_empty());
        let tcp = ask("many.example.", RecordType::A, None);
        assert_eq!(tcp.answers.len(), 100);
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        assert!(answer(b"junk", Some(512), &Fixed).is_none());
        let response = Message::new(7, MessageType::Response, OpCode::Query);
        assert!(answer(&response.to_vec().unwrap(), Some(512), &Fixed).is_none());
    }
}

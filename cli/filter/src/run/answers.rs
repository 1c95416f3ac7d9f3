//! What other services answer the filter.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use weft_wasm_host::{FetchError, FetchRequest, FetchResponse, FetchResult};

use super::args::{header, status};
use crate::config::text_or_file;

/// Answers by service, in the order in which they are given.
#[derive(Debug, Default)]
pub(super) struct Answers(HashMap<String, Service>);

/// What one of them answers.
#[derive(Debug, Default)]
struct Service {
    answers: Vec<Answer>,
    asked: bool,
}

#[derive(Debug, Clone)]
enum Answer {
    Response(StatusCode, HeaderMap, Bytes),
    Error(FetchError),
}

impl Answers {
    pub(super) fn parse(fetches: &[String], headers: &[String]) -> Result<Self> {
        let mut answers = Self::default();
        for text in fetches {
            let (service, answer) = cut("--fetch", text)?;
            let parsed = answer_of(answer).with_context(|| format!("--fetch {text:?}"))?;
            answers
                .0
                .entry(service.to_owned())
                .or_default()
                .answers
                .push(parsed);
        }
        for text in headers {
            let (service, line) = cut("--fetch-header", text)?;
            let (name, value) = header(line).with_context(|| format!("--fetch-header {text:?}"))?;
            let service_of = answers.0.get_mut(service);
            match service_of.and_then(|service| service.answers.last_mut()) {
                Some(Answer::Response(_, headers, _)) => headers.append(name, value),
                _ => bail!("--fetch-header {text:?}: there is no --fetch {service}=STATUS"),
            };
        }
        Ok(answers)
    }

    /// What comes of a fetch. Who has no answer is not there.
    pub(super) fn next(&mut self, request: &FetchRequest) -> FetchResult {
        let Some(service) = self.0.get_mut(&request.service) else {
            return Err(FetchError::NoEndpoint);
        };
        service.asked = true;
        let answers = &mut service.answers;
        let answer = match answers.len() {
            0 => return Err(FetchError::NoEndpoint),
            1 => answers[0].clone(),
            _ => answers.remove(0),
        };
        match answer {
            Answer::Error(error) => Err(error),
            Answer::Response(status, headers, body) => Ok(Box::new(
                match is_grpc(request) && status == StatusCode::OK {
                    true => as_grpc(headers, &body),
                    false => FetchResponse {
                        status,
                        headers,
                        body,
                        trailers: HeaderMap::new(),
                    },
                },
            )),
        }
    }

    /// Services that have an answer and were not asked, in the order of their names.
    pub(super) fn unasked(&self) -> Vec<String> {
        let unasked = self.0.iter().filter(|(_, service)| !service.asked);
        let mut names: Vec<String> = unasked.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Whether anything was said of a service.
    pub(super) fn knows(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }
}

/// At the first `=`: a service has none.
fn cut<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=')
        .filter(|(service, _)| !service.is_empty())
        .with_context(|| format!("{flag} {text:?}: write SERVICE=..., as authz.default:80=200"))
}

fn answer_of(text: &str) -> Result<Answer> {
    let error = match text {
        "denied" => FetchError::Denied,
        "no-endpoint" => FetchError::NoEndpoint,
        "timeout" => FetchError::Timeout,
        "too-large" => FetchError::TooLarge,
        "overloaded" => FetchError::Overloaded,
        "failed" => FetchError::Failed("the connection failed".to_owned()),
        _ => {
            let (code, body) = text.split_once(' ').unwrap_or((text, ""));
            let body = text_or_file(body.trim_start())?;
            return Ok(Answer::Response(
                status(code)?,
                HeaderMap::new(),
                body.into(),
            ));
        }
    };
    Ok(Answer::Error(error))
}

fn is_grpc(request: &FetchRequest) -> bool {
    let kind = request.headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The one message of an answer, as gRPC frames it, with its status.
fn as_grpc(mut headers: HeaderMap, message: &Bytes) -> FetchResponse {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(length);
    body.extend_from_slice(message);
    headers
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/grpc"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    FetchResponse {
        status: StatusCode::OK,
        headers,
        body: body.freeze(),
        trailers,
    }
}

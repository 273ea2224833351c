//! What a client is told when its request is refused: a status of HTTP, and code, message and hint as
//! JSON. Places on this machine are not said.

use anyid_files::Error;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refused request.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: Error,
}

/// Result of answering a request.
pub type Answer<T = Response> = Result<T, Refusal>;

impl Refusal {
    /// A refusal with `status`, for what `message` says.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: Error::input(code, message) }
    }

    /// There are as many connections as there may be (E1614).
    pub fn full() -> Self {
        let message = "the server has as many connections as it takes";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "E1614", message).help("try again in a moment")
    }

    /// A request that is none (E1612).
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "E1612", message)
    }

    /// Adds what the client can do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.error = self.error.help(help);
        self
    }

    /// The code of the error.
    #[cfg(test)]
    pub fn code(&self) -> &'static str {
        self.error.code()
    }

    fn body(&self) -> Value {
        json!({
            "code": self.error.code(), "message": self.error.message(),
            "hint": self.error.help_text(),
        })
    }

    /// The body of the answer.
    pub fn text(&self) -> String {
        self.body().to_string()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            "E1603" => StatusCode::SERVICE_UNAVAILABLE,
            "E1606" | "E1615" => StatusCode::CONFLICT,
            "E1609" => StatusCode::NOT_FOUND,
            "E1612" => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut answer = (self.status, said(&self.body())).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// A JSON value as the body of an answer.
pub fn said(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string())
}

//! What a client is told when its request is refused: a status of HTTP and a coded error.
//!
//! The body has the shape of OpenAI's errors, with our code. Places on this machine are not said.

use anyid_runtime::Error;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refused request.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: Error,
    /// The field that is at fault.
    param: Option<String>,
}

/// Result of answering a request.
pub type Answer<T = Response> = Result<T, Refusal>;

impl Refusal {
    /// A refusal with `status`, for what `message` says.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: Error::input(code, message), param: None }
    }

    /// A field that is unknown, missing, there twice or has an impossible value (E1412).
    pub fn field(name: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "E1412", message).of(name)
    }

    /// There are as many connections as there may be (E1414).
    pub fn full() -> Self {
        let message = "the server has as many connections as it takes";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "E1414", message).help("try again in a moment")
    }

    /// A request that cannot be read (E1411).
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "E1411", message)
    }

    /// A request that is larger than is allowed (E1410).
    pub fn large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "E1410", message)
    }

    /// An error of the library about the field `name`.
    pub fn input(error: Error, name: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, param: None }.of(name)
    }

    /// An error of the library that the client has no part in, such as a full disk.
    pub fn trouble(error: Error) -> Self {
        let status = match error.code() {
            "E1012" => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error, param: None }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        self.param = Some(name.to_owned());
        self
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

    /// The body of the answer.
    pub fn text(&self) -> String {
        self.body().to_string()
    }

    fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": {
            "message": self.error.message(),
            "type": kind,
            "param": self.param,
            "code": self.error.code(),
            "help": self.error.help_text(),
        } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut answer = (self.status, said(&self.body())).into_response();
        let headers = answer.headers_mut();
        // Whoever sends the same again gets the same answer; clients of OpenAI would try.
        if self.status.is_client_error() {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// A JSON value as the body of an answer.
pub fn said(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string())
}

//! One HTTP request: all that a program without the feature `judge` lacks of asking servers. Answers
//! that are kept need none.

use anyid_files::Result;

/// Largest answer that is read, in bytes.
#[cfg(feature = "judge")]
const LARGEST: u64 = 16 << 20;

/// What a server sent back.
// Without the feature nothing is sent, and nothing comes back.
#[cfg_attr(not(feature = "judge"), allow(dead_code))]
pub struct Received {
    /// The status.
    pub status: u16,
    /// What it says of waiting.
    pub retry_after: Option<String>,
    /// What it sent, or what was wrong on the way.
    pub body: std::result::Result<Vec<u8>, String>,
}

/// What sends requests.
#[cfg(feature = "judge")]
pub struct Transport(ureq::Agent);

#[cfg(feature = "judge")]
impl Transport {
    /// Nothing is sent yet. `address` is where requests will go, `here` whether that is this machine.
    ///
    /// # Errors
    /// None: a program without calls of servers has some.
    pub fn open(_address: &str, here: bool) -> Result<Self> {
        use std::time::Duration;
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)));
        // What goes to this machine does not go through the proxy that the environment names.
        let config = if here { config.proxy(None) } else { config };
        Ok(Self(config.build().new_agent()))
    }

    /// Sends a body and waits for what comes back, so many seconds at most.
    ///
    /// # Errors
    /// What was wrong where nothing comes back.
    pub fn post(
        &self,
        url: &str,
        key: Option<&str>,
        body: String,
        seconds: f64,
    ) -> std::result::Result<Received, String> {
        let most = Some(std::time::Duration::from_secs_f64(seconds));
        let request = self.0.post(url).config().timeout_global(most).build();
        let mut request = request.header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|fault| fault.to_string())?;
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
        let body = body.map_err(|fault| fault.to_string());
        Ok(Received { status: response.status().as_u16(), retry_after, body })
    }
}

/// What sends requests: nothing in this program.
#[cfg(not(feature = "judge"))]
pub enum Transport {}

#[cfg(not(feature = "judge"))]
impl Transport {
    /// Says that there is none.
    ///
    /// # Errors
    /// E1209, always.
    pub fn open(address: &str, _here: bool) -> Result<Self> {
        let message = "this program was built without calls of servers";
        Err(anyid_files::Error::input("E1209", message)
            .at(address)
            .help("build it with --features judge, or write NAME.aspects.toml beside the videos"))
    }

    /// Sends nothing.
    ///
    /// # Errors
    /// None: there is nothing to send with.
    pub fn post(
        &self,
        _url: &str,
        _key: Option<&str>,
        _body: String,
        _seconds: f64,
    ) -> std::result::Result<Received, String> {
        match *self {}
    }
}

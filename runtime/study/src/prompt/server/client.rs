//! Asking a server that speaks the chat-completions interface (`prompts.md` §3): what it is asked for
//! is lowered where it does not know it, faults that pass are waited for, answers are checked and
//! mended, and what it costs is counted.
//!
//! Keys are in no error, log or entry of the cache. Nothing is sent to a server in the open network
//! without TLS.

use super::PICTURE_TOKENS;
use super::answer::Answered;
use super::ask::{Ask, Part, Shown};
use super::retry::retry_after;
use super::transport::{Received, Transport};
use crate::prompt::cache::{Cache, Mode};
use crate::prompt::profile::{Answer, Profile};
use anyid_files::{Error, Result, error};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Times that a fault which may pass is waited for.
const TRIES: u32 = 6;
/// Faults in a row behind which a run stops.
const IN_A_ROW: u32 = 20;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An answer, and the name under which it is kept.
    Answered(Answered, String),
    /// The server does not want to answer.
    Refused,
    /// No answer was sound; what was wrong with the last one.
    Failed(String),
}

/// What asking cost.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Costs {
    /// Calls of the server.
    pub calls: u64,
    /// Answers that were kept already.
    pub hits: u64,
    /// Tokens sent.
    pub tokens_in: u64,
    /// Tokens of answers.
    pub tokens_out: u64,
    /// Of those sent, tokens that the server still knew.
    pub tokens_cached: u64,
    /// Of those of answers, tokens of thoughts.
    pub tokens_thought: u64,
    /// Money; none where a price is not known.
    pub money: Option<f64>,
    /// Seconds that were waited for answers, all calls together.
    pub seconds: f64,
    /// Calls that gave no sound answer, by what was wrong.
    pub faults: std::collections::BTreeMap<String, u64>,
}

impl Costs {
    /// What came since `before`, which are earlier costs of the same server.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let fault = |(kind, count): (&String, &u64)| {
            let new = count - before.faults.get(kind).unwrap_or(&0);
            (new > 0).then(|| (kind.clone(), new))
        };
        Self {
            calls: self.calls - before.calls,
            hits: self.hits - before.hits,
            tokens_in: self.tokens_in - before.tokens_in,
            tokens_out: self.tokens_out - before.tokens_out,
            tokens_cached: self.tokens_cached - before.tokens_cached,
            tokens_thought: self.tokens_thought - before.tokens_thought,
            money: self.money.zip(before.money).map(|(now, before)| now - before),
            seconds: self.seconds - before.seconds,
            faults: self.faults.iter().filter_map(fault).collect(),
        }
    }
}

impl Costs {
    /// Those of two servers together; money that one of them does not know is not known.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut faults = self.faults.clone();
        for (kind, count) in &other.faults {
            *faults.entry(kind.clone()).or_default() += count;
        }
        Self {
            calls: self.calls + other.calls,
            hits: self.hits + other.hits,
            tokens_in: self.tokens_in + other.tokens_in,
            tokens_out: self.tokens_out + other.tokens_out,
            tokens_cached: self.tokens_cached + other.tokens_cached,
            tokens_thought: self.tokens_thought + other.tokens_thought,
            money: self.money.zip(other.money).map(|(own, other)| own + other),
            seconds: self.seconds + other.seconds,
            faults,
        }
    }
}

struct State {
    answer: Answer,
    /// When the next request may go out.
    next: Instant,
    /// Share of the stated rate that is used.
    pace: f64,
    failures: u32,
    costs: Costs,
    picture_tokens: f64,
}

/// A server, with what was learned of it in this run.
pub struct Server {
    profile: Profile,
    key: Option<String>,
    /// None where nothing is ever sent.
    transport: Option<Transport>,
    cache: Cache,
    most_cost: Option<f64>,
    tries: u32,
    sleep: Box<dyn Fn(Duration) + Send + Sync>,
    state: Mutex<State>,
}

struct Reply {
    /// The whole body.
    body: Value,
    content: String,
    finish: String,
    refused: bool,
}

/// What came of a request.
enum Heard {
    Reply(Reply),
    /// It is asked again for an answer of a lower form.
    Lowered,
    /// It is asked again after so long, or else after the usual time; and why.
    Later(Option<Duration>, String),
}

/// Whether an address is this machine.
fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn key_of(profile: &Profile, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    if let Some(name) = &profile.api_key_env {
        let key = variable(name).map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        return match key {
            Some(key) => Ok(Some(key)),
            None => Err(Error::input("E1230", format!("the variable {name} has no key"))
                .at(&profile.base_url)
                .help(format!("set it: export {name}=…"))),
        };
    }
    let Some(path) = &profile.api_key_file else { return Ok(None) };
    let about = std::fs::metadata(path).map_err(|fault| error::unreadable(path, fault))?;
    if !private(&about) {
        return Err(Error::input("E1239", "others may read the file of the key")
            .at(path.display())
            .help("chmod 600 it"));
    }
    let text = crate::settings::text(path, 1 << 16)?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(unix)]
fn private(about: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    about.permissions().mode() & 0o077 == 0
}

#[cfg(not(unix))]
fn private(_: &std::fs::Metadata) -> bool {
    true
}

impl Server {
    /// Opens a server; nothing is sent.
    ///
    /// # Errors
    /// E1230 for a key that is not there, E1239 for one that others may read, E1231 for an address
    /// without TLS outside of this machine, E1209 where this program sends nothing, E0911.
    pub fn open(
        profile: &Profile,
        cache: &Path,
        mode: Mode,
        insecure: bool,
        most_cost: Option<f64>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let secure = profile.base_url.starts_with("https://");
        let plain = profile.base_url.starts_with("http://");
        if !secure && !(plain && (insecure || is_loopback(&profile.base_url))) {
            return Err(Error::input(
                "E1231",
                "pictures of people, or texts about them, would go out unencrypted",
            )
            .at(&profile.base_url)
            .help("use https, or --insecure-http in a network that you trust"));
        }
        let here = is_loopback(&profile.base_url);
        let (key, transport) = match mode {
            // Without calls neither is needed.
            Mode::ReadOnly => (None, None),
            Mode::ReadWrite | Mode::Off => {
                (key_of(profile, variable)?, Some(Transport::open(&profile.base_url, here)?))
            }
        };
        let priced = profile.price_in.is_some() && profile.price_out.is_some();
        Ok(Self {
            profile: profile.clone(),
            key,
            transport,
            cache: Cache::new(cache, mode),
            most_cost,
            tries: TRIES,
            sleep: Box::new(std::thread::sleep),
            state: Mutex::new(State {
                answer: profile.response_format,
                next: Instant::now(),
                pace: 1.0,
                failures: 0,
                costs: Costs { money: priced.then_some(0.0), ..Costs::default() },
                picture_tokens: PICTURE_TOKENS,
            }),
        })
    }

    /// Waits by `sleep` instead of by the clock.
    #[must_use]
    pub fn sleeping(mut self, sleep: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.sleep = Box::new(sleep);
        self
    }

    /// Tries so many times where a fault may pass, instead of six.
    #[must_use]
    pub fn trying(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// What is known of it.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The model that is asked for.
    pub fn model(&self) -> &str {
        &self.profile.model
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.profile.base_url
    }

    /// Whether it is this machine.
    pub fn is_here(&self) -> bool {
        is_loopback(&self.profile.base_url)
    }

    /// What so many tokens cost; none where a price is not known.
    pub fn price(&self, tokens_in: f64, tokens_out: f64) -> Option<f64> {
        let (per_in, per_out) = self.profile.price_in.zip(self.profile.price_out)?;
        Some((tokens_in * per_in + tokens_out * per_out) / 1e6)
    }

    /// What asking cost until now.
    pub fn costs(&self) -> Costs {
        self.state().costs.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Asks, or takes the answer that is kept.
    ///
    /// # Errors
    /// E1232 where the key is refused, E1233 where the server cannot be reached, E1234 where the most
    /// that may be spent is spent, E1236 where it refuses the request, E1238, E101x.
    pub fn ask(&self, ask: &Ask) -> Result<Outcome> {
        let temperature = ask.question.temperature();
        let known = |parts: &[Part]| parts.iter().map(Part::known).collect::<Vec<Value>>();
        let mut asked = json!({
            "stage": ask.question.name(), "system": ask.system, "schema": ask.question.schema(),
            "model": self.profile.model, "temperature": temperature, "user": known(&ask.user),
        });
        if !ask.examples.is_empty() {
            let shown = |shown: &Shown| json!([known(&shown.user), shown.answer]);
            asked["examples"] = ask.examples.iter().map(shown).collect();
        }
        if ask.vote > 0 {
            asked["vote"] = ask.vote.into();
        }
        let key = Cache::key(&asked);
        if let Some(entry) = self.cache.get(&key)? {
            self.state().costs.hits += 1;
            let answered = Answered { value: entry["parsed"].clone(), warnings: Vec::new() };
            return Ok(Outcome::Answered(answered, key));
        }
        let mut turns: Vec<Value> = Vec::new();
        let mut last = String::new();
        let mut room = ask.question.room().max(self.profile.max_tokens);
        for (attempt, temperature) in ask.question.attempts().into_iter().enumerate() {
            let begun = Instant::now();
            let mut reply = self.send(ask, &turns, temperature, room)?;
            if reply.finish == "length" && attempt == 0 {
                room *= 2;
                reply = self.send(ask, &turns, temperature, room)?;
            }
            if reply.refused || reply.finish == "content_filter" {
                self.fault("refused");
                return Ok(Outcome::Refused);
            }
            match ask.question.read(&reply.content) {
                Ok(answered) => {
                    let entry = json!({
                        "asked": asked, "profile": self.profile.base_url, "answer": reply.content,
                        "parsed": answered.value, "model": reply.body["model"],
                        "usage": reply.body["usage"], "body": reply.body,
                        "seconds": begun.elapsed().as_secs_f64(),
                    });
                    self.cache.put(&key, &entry)?;
                    return Ok(Outcome::Answered(answered, key));
                }
                Err(what) => {
                    self.fault("unsound");
                    turns = vec![
                        json!({"role": "assistant", "content": reply.content}),
                        json!({"role": "user", "content": format!("{what}. Return the JSON object alone.")}),
                    ];
                    last = what;
                }
            }
        }
        Ok(Outcome::Failed(last))
    }

    /// What is kept of an answer: what was asked, the whole body of the answer, the model that the server
    /// says answered, tokens, and seconds.
    pub fn kept(&self, key: &str) -> Option<Value> {
        self.cache.get(key).ok().flatten()
    }

    fn fault(&self, kind: &str) {
        *self.state().costs.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// The body of a request.
    fn body(&self, ask: &Ask, turns: &[Value], temperature: f64, room: u64, form: Answer) -> Value {
        let schema = ask.question.schema();
        let mut system = ask.system.clone();
        if form != Answer::JsonSchema {
            system.push_str(&format!("\nAnswer with one JSON object of this schema: {schema}"));
        }
        let parts = |parts: &[Part]| parts.iter().map(Part::sent).collect::<Vec<Value>>();
        let mut messages = vec![json!({"role": "system", "content": system})];
        for shown in &ask.examples {
            messages.push(json!({"role": "user", "content": parts(&shown.user)}));
            messages.push(json!({"role": "assistant", "content": shown.answer}));
        }
        messages.push(json!({"role": "user", "content": parts(&ask.user)}));
        messages.extend(turns.iter().cloned());
        let mut body = Map::new();
        body.insert("model".into(), self.profile.model.clone().into());
        body.insert("messages".into(), messages.into());
        body.insert("temperature".into(), json!(temperature));
        body.insert(self.profile.max_tokens_field.clone(), room.into());
        body.insert("stream".into(), false.into());
        if self.profile.seed {
            body.insert("seed".into(), ask.vote.into());
        }
        match form {
            Answer::JsonSchema => {
                let schema = json!({"name": "portrait_elements", "strict": true, "schema": schema});
                let format = json!({"type": "json_schema", "json_schema": schema});
                body.insert("response_format".into(), format);
            }
            Answer::JsonObject => {
                body.insert("response_format".into(), json!({"type": "json_object"}));
            }
            Answer::Text => {}
        }
        body.extend(self.profile.extra_body.clone());
        body.into()
    }

    /// Waits for its turn, so that no more is sent than the server wants.
    fn turn(&self, ask: &Ask) -> Result<()> {
        let wait = {
            let mut state = self.state();
            if let (Some(most), Some(spent)) = (self.most_cost, state.costs.money)
                && spent >= most
            {
                let message = format!("{spent:.4} is spent, at most {most} may be");
                return Err(Error::input("E1234", message)
                    .at(&self.profile.base_url)
                    .help("what is answered is kept: go on with a higher --max-cost"));
            }
            let tokens: f64 =
                ask.parts().map(|part| part.tokens(state.picture_tokens)).sum::<f64>()
                    + ask.system.len() as f64 / 4.0;
            let per_request = self.profile.rpm.map_or(0.0, |rpm| 60.0 / rpm.max(1e-3));
            let per_token = self.profile.tpm.map_or(0.0, |tpm| tokens * 60.0 / tpm.max(1e-3));
            let step =
                Duration::from_secs_f64((per_request.max(per_token) / state.pace).min(600.0));
            let now = Instant::now();
            let from = state.next.max(now);
            state.next = from + step;
            from - now
        };
        if !wait.is_zero() {
            (self.sleep)(wait);
        }
        Ok(())
    }

    fn send(&self, ask: &Ask, turns: &[Value], temperature: f64, room: u64) -> Result<Reply> {
        let url = format!("{}/chat/completions", self.profile.base_url.trim_end_matches('/'));
        let mut tries = 0;
        loop {
            self.turn(ask)?;
            let form = self.state().answer;
            let body = self.body(ask, turns, temperature, room, form).to_string();
            self.state().costs.calls += 1;
            let seconds = self.profile.timeout_s.unwrap_or(ask.question.seconds());
            let begun = Instant::now();
            let received = match &self.transport {
                Some(transport) => transport.post(&url, self.key.as_deref(), body, seconds),
                None => Err("nothing is sent with --cache ro".to_owned()),
            };
            self.state().costs.seconds += begun.elapsed().as_secs_f64();
            let (wait, what) = match received {
                Err(fault) => (None, fault),
                Ok(received) => match self.heard(received, ask, form)? {
                    Heard::Reply(reply) => return Ok(reply),
                    Heard::Lowered => continue,
                    Heard::Later(wait, what) => (wait, what),
                },
            };
            self.fault("failed");
            let failures = {
                let mut state = self.state();
                state.failures += 1;
                state.failures
            };
            tries += 1;
            if tries >= self.tries || failures >= IN_A_ROW {
                return Err(Error::input("E1233", self.without_key(&format!("no answer: {what}")))
                    .at(&self.profile.base_url)
                    .help("see whether the server runs; what is answered is kept, so start again later"));
            }
            let share =
                crate::random::unit(crate::random::bits(0, "retry", &url, u64::from(failures))[0]);
            let usual = (2f64.powi(tries as i32)).min(60.0) * (0.5 + share);
            (self.sleep)(wait.unwrap_or(Duration::from_secs_f64(usual)));
        }
    }

    /// What a server sent back means for the question.
    ///
    /// # Errors
    /// E1232 where the key is refused, E1236 where the request is.
    fn heard(&self, received: Received, ask: &Ask, form: Answer) -> Result<Heard> {
        let Received { status, retry_after: after, body } = received;
        Ok(match (status, body) {
            (200..=299, Ok(bytes)) => match self.reply(&bytes, ask) {
                Ok(reply) => {
                    let mut state = self.state();
                    state.failures = 0;
                    state.pace = (state.pace + 0.05).min(1.0);
                    Heard::Reply(reply)
                }
                Err(what) => Heard::Later(None, what),
            },
            (200..=299, Err(fault)) => Heard::Later(None, fault),
            (401 | 403, _) => {
                let message = format!("the server refuses the key ({status})");
                return Err(Error::input("E1232", message)
                    .at(&self.profile.base_url)
                    .help("check the key that api_key_env or api_key_file names"));
            }
            (408 | 409 | 425 | 429 | 500..=599, _) => {
                if status == 429 {
                    let mut state = self.state();
                    state.pace = (state.pace / 2.0).max(0.05);
                }
                let wait = after.and_then(|text| retry_after(&text));
                Heard::Later(wait, format!("the server answers {status}"))
            }
            (_, body) => {
                let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
                if self.lowered(form, status, &text) {
                    return Ok(Heard::Lowered);
                }
                let said: String = text.chars().take(300).collect();
                let message = format!("the server refuses the request ({status}): {said}");
                return Err(Error::input("E1236", self.without_key(&message))
                    .at(&self.profile.base_url)
                    .help("check model, max_tokens_field and extra_body of the profile"));
            }
        })
    }

    /// Whether the form of answers was lowered because the server does not know it.
    fn lowered(&self, form: Answer, status: u16, text: &str) -> bool {
        let named = ["response_format", "json_schema", "json_object", "schema"];
        if status != 400 || !named.iter().any(|word| text.contains(word)) {
            return false;
        }
        let lower = match form {
            Answer::JsonSchema => Answer::JsonObject,
            Answer::JsonObject => Answer::Text,
            Answer::Text => return false,
        };
        let mut state = self.state();
        state.answer = state.answer.max(lower);
        true
    }

    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "…"),
            _ => text.to_owned(),
        }
    }

    /// Reads the body of an answer and counts what it cost.
    fn reply(&self, bytes: &[u8], ask: &Ask) -> std::result::Result<Reply, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| "the answer is not JSON")?;
        let choice = value["choices"].get(0).ok_or("the answer has no choice")?;
        let number = |key: &str| value["usage"][key].as_u64().unwrap_or(0);
        let (sent, made) = (number("prompt_tokens"), number("completion_tokens"));
        let mut state = self.state();
        state.costs.tokens_in += sent;
        state.costs.tokens_out += made;
        let part = |of: &str, key: &str| value["usage"][of][key].as_u64().unwrap_or(0);
        state.costs.tokens_cached += part("prompt_tokens_details", "cached_tokens");
        state.costs.tokens_thought += part("completion_tokens_details", "reasoning_tokens");
        let cost = self.price(sent as f64, made as f64);
        state.costs.money = state.costs.money.zip(cost).map(|(money, cost)| money + cost);
        let pictures = ask.parts().filter(|part| matches!(part, Part::Picture(_))).count();
        if pictures > 0 && sent > 0 {
            state.picture_tokens = sent as f64 / pictures as f64;
        }
        let message = &choice["message"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (content, finish) = (text(&message["content"]), text(&choice["finish_reason"]));
        let refused = message["refusal"].as_str().is_some_and(|text| !text.is_empty());
        Ok(Reply { content, finish, refused, body: value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_names() {
        for url in ["http://127.0.0.1:80/v1", "http://localhost/v1", "http://[::1]:8000"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://10.0.0.1/v1", "http://localhost.example.org/", "http://127.0.0.1@evil.org/"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }
}

//! `consent`: write, sign, check, list and revoke records of what people agreed to.

use super::watermark::MakeKey;
use super::{SafeguardArgs, write_down};
use crate::output::{self, table};
use crate::recipe;
use crate::render::Failure;
use anyid_runtime::files::{AtomicFile, Existing, make_folder, write_error};
use anyid_runtime::safeguards::audit;
use anyid_runtime::safeguards::consent::{
    Issuer, Picture, Publish, REVOKED, Record, Records, SCHEMA, Scope, revocation,
};
use anyid_runtime::safeguards::policy::Policy;
use anyid_runtime::safeguards::signature::{SecretKey, make_secret};
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The verbs of `consent`.
#[derive(Debug, Subcommand)]
pub enum ConsentVerb {
    /// Write a record of what a person agreed to, not yet signed.
    New(New),
    /// Sign a record with the key of whoever keeps the form.
    Sign(Sign),
    /// Check the signature, the dates and the revocations of a record.
    Verify(VerifyRecord),
    /// List records.
    List(List),
    /// Revoke a record.
    Revoke(Revoke),
    /// Make and sign a record of your own pictures.
    #[command(name = "self")]
    Own(Own),
    /// Make a key to sign with.
    Key(MakeKey),
}

/// Flags of `consent new`.
#[derive(Debug, Args)]
pub struct New {
    /// A pseudonym: letters, digits and dashes. A name does not belong here.
    #[arg(long, value_name = "ID")]
    pub person: String,
    /// Id of the record [default: made of the pictures].
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The pictures or clips.
    #[arg(long = "ref", value_name = "FILE", num_args = 1.., required = true)]
    pub references: Vec<PathBuf>,
    /// The person is of age.
    #[arg(long)]
    pub adult: bool,
    /// What is allowed: generate, evaluate, study, train.
    #[arg(long, value_name = "USE,…", value_delimiter = ',', default_value = "generate")]
    pub scope: Vec<String>,
    /// First day [default: today].
    #[arg(long, value_name = "DATE")]
    pub from: Option<String>,
    /// Day from which on it is not valid [default: in a year].
    #[arg(long, value_name = "DATE")]
    pub expires: Option<String>,
    /// What was agreed on beyond that, in words; may be given several times.
    #[arg(long = "restriction", value_name = "TEXT")]
    pub restrictions: Vec<String>,
    /// How it was given, in words.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub how: String,
    /// Who keeps the form, in words.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub issuer: String,
    /// The record [default: consents/ID.json].
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Flags of `consent sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The record, which is replaced.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The key.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
}

/// Flags of `consent verify`.
#[derive(Debug, Args)]
pub struct VerifyRecord {
    /// The record.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `consent list`.
#[derive(Debug, Args)]
pub struct List {
    /// Folders of records [default: those of the policy].
    #[arg(value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `consent revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Id of the record.
    #[arg(value_name = "ID")]
    pub id: String,
    /// The key that the record was signed with.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The folder of the record.
    #[arg(long, value_name = "DIR", default_value = "consents")]
    pub folder: PathBuf,
}

/// Flags of `consent self`.
#[derive(Debug, Args)]
pub struct Own {
    /// Your pictures or clips.
    #[arg(long = "ref", value_name = "FILE", num_args = 1.., required = true)]
    pub references: Vec<PathBuf>,
    /// Your key, which is made if it is not there.
    #[arg(long, value_name = "FILE", default_value = "consents/self.key")]
    pub key: PathBuf,
    /// The folder of records.
    #[arg(long, value_name = "DIR", default_value = "consents")]
    pub folder: PathBuf,
}

impl ConsentVerb {
    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Verify(args) => args.json,
            Self::List(args) => args.json,
            Self::New(_) | Self::Sign(_) | Self::Revoke(_) | Self::Own(_) | Self::Key(_) => false,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// E1106 for records that are not in order, E1107 for keys, E0911 and E101x for files.
pub fn run(verb: ConsentVerb) -> std::result::Result<(), Failure> {
    match verb {
        ConsentVerb::New(args) => {
            let mut record = unsigned(&args.person, &args.references)?;
            record.id = args.id.clone().unwrap_or(record.id);
            record.adult = args.adult;
            let scope = |name: &String| {
                name.parse::<Scope>().map_err(|()| {
                    Error::input("E1106", format!("\"{name}\" is no use"))
                        .at("--scope")
                        .help("give generate, evaluate, study or train, with commas between")
                })
            };
            record.scopes = args.scope.iter().map(scope).collect::<Result<_>>()?;
            record.not_before = args.from.clone().unwrap_or(record.not_before);
            record.expires = args.expires.clone().unwrap_or(record.expires);
            record.restrictions.clone_from(&args.restrictions);
            record.how.clone_from(&args.how);
            record.issuer.name.clone_from(&args.issuer);
            record.check()?;
            let usual = || Path::new("consents").join(format!("{}.json", record.id));
            let path = args.output.clone().unwrap_or_else(usual);
            write(&path, &record, Existing::Keep)?;
            let place = path.display();
            output::print(&format!("wrote {place}; `anyid-rt consent sign {place} --key FILE`\n"))?;
        }
        ConsentVerb::Sign(args) => {
            let key = SecretKey::read(&args.key)?;
            let (mut record, _) = Record::read(&args.file)?;
            record.sign(&key).map_err(|error| error.at(args.file.display()))?;
            write(&args.file, &record, Existing::Replace)?;
            written_down("sign", &record.id)?;
            output::print(&format!("signed {} as {}\n", args.file.display(), key.public()))?;
        }
        ConsentVerb::Verify(args) => verify(&args)?,
        ConsentVerb::List(args) => list(&args)?,
        ConsentVerb::Revoke(args) => revoke(&args)?,
        ConsentVerb::Own(args) => {
            make_folder(&args.folder)?;
            if let Some(above) = args.key.parent().filter(|p| !p.as_os_str().is_empty()) {
                make_folder(above)?;
            }
            let key = match args.key.exists() {
                true => SecretKey::read(&args.key)?,
                false => SecretKey::of(&make_secret(&args.key)?),
            };
            let mut record = unsigned("self", &args.references)?;
            record.adult = true;
            record.scopes = Scope::ALL.to_vec();
            record.how = "own pictures".to_owned();
            record.issuer.name = "self".to_owned();
            record.sign(&key)?;
            let path = args.folder.join(format!("{}.json", record.id));
            write(&path, &record, Existing::Keep)?;
            written_down("self", &record.id)?;
            let expires = &record.expires;
            output::print(&format!("wrote {}, valid until {expires}\n", path.display()))?;
        }
        ConsentVerb::Key(args) => {
            let public = SecretKey::of(&make_secret(&args.output)?).public();
            output::print(&format!(
                "wrote {}; the public key is {public}\n",
                args.output.display()
            ))?;
        }
    }
    Ok(())
}

fn today() -> String {
    audit::moment(SystemTime::now())[..10].to_owned()
}

/// A record of these files that allows videos for a year.
fn unsigned(person: &str, references: &[PathBuf]) -> Result<Record> {
    let pictures = references
        .iter()
        .map(|path| {
            let sha256 = recipe::hashed(path)?.sha256;
            Ok(Picture::File { sha256, role: "any".to_owned() })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut first = String::new();
    if let Some(Picture::File { sha256, .. }) = pictures.first() {
        first = sha256[..8].to_owned();
    }
    let from = today();
    let year: u32 = from[..4].parse().expect("a date begins with its year");
    Ok(Record {
        schema: SCHEMA.to_owned(),
        id: format!("c-{first}"),
        person: person.to_owned(),
        adult: false,
        scopes: vec![Scope::Generate],
        publish: Publish::No,
        restrictions: Vec::new(),
        references: pictures,
        expires: format!("{}{}", year + 1, &from[4..]),
        not_before: from,
        how: String::new(),
        issuer: Issuer { name: String::new(), key: String::new() },
        revocation: String::new(),
        sig: String::new(),
    })
}

fn write(path: &Path, record: &Record, existing: Existing) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder)?;
    }
    let mut file = AtomicFile::create_as(path, existing)?;
    file.append(format!("{:#}\n", json!(record)).as_bytes())?;
    file.commit().map(drop)
}

/// What is wrong with a record today.
fn fault(path: &Path, policy: &Policy) -> Result<(Record, Option<&'static str>)> {
    let (record, value) = Record::read(path)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let revocations = Records::revocations(&folder)?;
    let fault = revocations.fault(&record, &value, &today(), &policy.issuers)?;
    Ok((record, fault))
}

fn verify(args: &VerifyRecord) -> std::result::Result<(), Failure> {
    let (record, fault) = fault(&args.file, &SafeguardArgs::default().policy()?)?;
    if let Some(fault) = fault {
        let error = Error::input("E1106", format!("consent record {} {fault}", record.id));
        let help = "ask the issuer for a record that is in order";
        return Err(error.at(args.file.display()).help(help).into());
    }
    let scopes: Vec<&str> = record.scopes.iter().map(|scope| scope.name()).collect();
    let Record { id, person, adult, expires, issuer, .. } = &record;
    match args.json {
        true => output::print_json(&json!({
            "id": id, "valid": true, "person": person, "adult": adult, "scopes": scopes,
            "expires": expires, "issuer": issuer,
        }))?,
        false => output::print(&format!(
            "{id} is in order: {person}, {}, for {}, until {expires}, signed by {} {}\n",
            if *adult { "an adult" } else { "not said to be an adult" },
            scopes.join(", "),
            issuer.name,
            issuer.key
        ))?,
    }
    Ok(())
}

fn list(args: &List) -> std::result::Result<(), Failure> {
    let policy = SafeguardArgs::default().policy()?;
    let folders = if args.folders.is_empty() { &policy.consents } else { &args.folders };
    let records = Records::open(folders)?;
    let mut rows = Vec::new();
    for (path, record) in records.iter() {
        let (_, fault) = fault(path, &policy)?;
        rows.push((path, record, fault.unwrap_or("is in order")));
    }
    match args.json {
        true => {
            let row = |(path, record, state): &(&Path, &Record, &str)| {
                json!({ "file": path.display().to_string(), "id": record.id,
                    "person": record.person, "expires": record.expires, "state": state })
            };
            output::print_json(
                &json!({ "records": rows.iter().map(row).collect::<Vec<Value>>() }),
            )?;
        }
        false => {
            let row = |(path, record, state): &(&Path, &Record, &str)| {
                let file = path.display().to_string();
                let Record { id, person, expires, .. } = record;
                let cells = [id.as_str(), person.as_str(), expires.as_str(), *state, file.as_str()];
                cells.map(str::to_owned).to_vec()
            };
            output::print(&table(&rows.iter().map(row).collect::<Vec<_>>()))?;
        }
    }
    Ok(())
}

fn revoke(args: &Revoke) -> std::result::Result<(), Failure> {
    let key = SecretKey::read(&args.key)?;
    let records = Records::open(std::slice::from_ref(&args.folder))?;
    let found = records.iter().find(|(_, record)| record.id == args.id);
    let refuse = |what: String| Error::input("E1106", what).at(args.folder.display());
    let Some((_, record)) = found else {
        let error = refuse(format!("there is no consent record {}", args.id));
        return Err(error.help("`anyid-rt consent list DIR` shows them").into());
    };
    if record.issuer.key != key.public() {
        let error = refuse(format!("{} was signed with another key", args.id));
        return Err(error.help("revoke it with the key that signed it").into());
    }
    let path = args.folder.join(REVOKED);
    let line = revocation(&args.id, &today(), &key)?;
    let fail = |fault| write_error(&path, fault);
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(fail)?;
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    written_down("revoke", &args.id)?;
    output::print(&format!("revoked {} in {}\n", args.id, path.display()))?;
    Ok(())
}

/// Writes down what happened to a record.
fn written_down(what: &str, id: &str) -> Result<()> {
    write_down("consent", json!({ "what": what, "consents": [id] }))
}

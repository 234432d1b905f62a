//! Compiles `proto/` with protox, so that no `protoc` is needed; refuses a persisted field that the
//! privacy policy does not allow; and gives every message a `Debug` that shows nothing personal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, Value};

const SERVICES: [&str; 8] = [
    "access",
    "activation",
    "history",
    "license",
    "operator",
    "privacy",
    "statistics",
    "transparency",
];
const WIRE: &str = "countersign.v1";
const EVENTS: &str = "countersign.events.v1";
/// What the packages of all that is stored begin with.
const PERSISTED_PACKAGES: &str = "countersign.events.";
const POLICY: &str = "src/policy/allowed.toml";
/// The category of what says nothing about a person.
const TECHNICAL: &str = "technical";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed={POLICY}");
    let mut files: Vec<String> =
        SERVICES.iter().map(|name| format!("proto/countersign/v1/{name}.proto")).collect();
    files.push("proto/countersign/events/v1/events.proto".to_owned());
    let mut compiler = protox::Compiler::new(["proto"])?;
    let descriptors = compiler.include_imports(true).open_files(files)?.file_descriptor_set();
    // Encoded by the compiler, because the options' extensions are lost in prost's own types.
    let pool = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice())?;

    let policy: toml::Table = fs::read_to_string(POLICY)?.parse()?;
    let violations = Schema { pool: &pool, allowed: allowed(&policy)? }.violations();
    if !violations.is_empty() {
        for violation in violations {
            println!("cargo::error={violation}");
        }
        return Ok(());
    }

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut wire = descriptors.clone();
    wire.file.retain(|file| !file.name().starts_with("countersign/events"));
    fs::write(out.join("descriptors.bin"), wire.encode_to_vec())?;
    for package in [WIRE, EVENTS] {
        let mut code = String::new();
        for message in pool.all_messages().filter(|message| message.package_name() == package) {
            write_debug(&mut code, &message, package == EVENTS)?;
        }
        fs::write(out.join(format!("{package}.debug.rs")), code)?;
    }

    fs::write(out.join("event_categories.rs"), event_categories(&pool))?;

    let mut config = tonic_prost_build::Config::new();
    config.skip_debug([".countersign"]);
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::Codec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// The categories that the policy allows.
fn allowed(policy: &toml::Table) -> Result<Vec<&str>, Box<dyn Error>> {
    let categories = policy.get("category").and_then(toml::Value::as_array);
    let names = categories.into_iter().flatten().map(|category| category.get("name")?.as_str());
    let mut names: Vec<&str> =
        names.collect::<Option<_>>().ok_or_else(|| format!("{POLICY}: a category has no name"))?;
    names.push(TECHNICAL);
    Ok(names)
}

/// What is persisted, against what may be.
struct Schema<'a> {
    pool: &'a DescriptorPool,
    allowed: Vec<&'a str>,
}

impl Schema<'_> {
    /// Every breach of a rule, each with file, message, field and what to do.
    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for message in self.pool.all_messages().filter(is_persisted) {
            let at = format!("proto/{}: {}", message.parent_file().name(), message.name());
            let mut categories: BTreeMap<String, String> = BTreeMap::new();
            for field in message.fields() {
                let name = field.name().to_owned();
                let Some(category) = category(&field) else {
                    violations.push(format!(
                        "{at}.{name} has no data category. Whatever is stored must say which kind \
                         of data it is, as in `{name} = {} [(category) = CATEGORY_LICENSE];`, and \
                         the privacy policy must allow that kind. {POLICY} allows: {}. Data of \
                         another kind may not be stored.",
                        field.number(),
                        self.allowed.join(", "),
                    ));
                    continue;
                };
                if !self.allowed.contains(&category.as_str()) {
                    violations.push(format!(
                        "{at}.{name} has the data category {category}, which the privacy policy \
                         does not allow. {POLICY} allows: {}.",
                        self.allowed.join(", "),
                    ));
                }
                if let Kind::Message(inner) = field.kind()
                    && !is_persisted(&inner)
                {
                    violations.push(format!(
                        "{at}.{name} is of the type {}, whose fields name no data category and could \
                         hold anything. What is stored must be made of messages of \
                         {PERSISTED_PACKAGES}* alone.",
                        inner.full_name(),
                    ));
                } else if let Kind::Message(inner) = field.kind()
                    && let Some(personal) = inner.fields().find_map(|f| category_if_personal(&f))
                    && personal != category
                {
                    violations.push(format!(
                        "{at}.{name} has the data category {category}, but what it holds, {}, has \
                         {personal}: name that one.",
                        inner.name(),
                    ));
                }
                if category != TECHNICAL {
                    categories.entry(category).or_insert(name);
                }
            }
            if categories.len() > 1 && !is_envelope(&message) {
                let fields: Vec<String> = categories
                    .iter()
                    .map(|(category, field)| format!("{field} ({category})"))
                    .collect();
                violations.push(format!(
                    "{at} has data of several categories: {}. A record is sealed under the key of one \
                     category, so that it can be erased alone: make a message of its own for each.",
                    fields.join(", "),
                ));
            }
        }
        if self.pool.get_message_by_name(&format!("{EVENTS}.Event")).is_none() {
            violations.push(format!("{EVENTS}.Event is missing: nothing was checked"));
        }
        violations
    }
}

/// Whether a message is stored, of whichever version.
fn is_persisted(message: &MessageDescriptor) -> bool {
    format!("{}.", message.package_name()).starts_with(PERSISTED_PACKAGES)
}

/// Whether a message only says which of others it is.
fn is_envelope(message: &MessageDescriptor) -> bool {
    message.fields().all(|field| field.containing_oneof().is_some_and(|one| !one.is_synthetic()))
}

/// The data category that a field names, as the policy writes it.
fn category(field: &FieldDescriptor) -> Option<String> {
    let extension = field.parent_pool().get_extension_by_name(&format!("{EVENTS}.category"))?;
    let options = field.options();
    if !options.has_extension(&extension) {
        return None;
    }
    let Value::EnumNumber(number) = *options.get_extension(&extension) else { return None };
    let Kind::Enum(categories) = extension.kind() else { return None };
    let name = categories.get_value(number)?.name().to_owned();
    let name = name.strip_prefix("CATEGORY_")?.to_lowercase();
    (name != "unspecified").then_some(name)
}

/// The category of each event type, as the policy writes it.
fn event_categories(pool: &DescriptorPool) -> String {
    let event = pool.get_message_by_name(&format!("{EVENTS}.Event"));
    let kinds = event.iter().flat_map(MessageDescriptor::fields);
    let categories = kinds
        .map(|kind| format!("({}, {:?}),", kind.number(), category(&kind).unwrap_or_default()));
    format!("&[{}]", categories.collect::<String>())
}

fn category_if_personal(field: &FieldDescriptor) -> Option<String> {
    category(field).filter(|category| category != TECHNICAL)
}

/// Writes a `Debug`: of what is persisted it shows the technical fields, of what is on the wire the
/// name alone.
fn write_debug(
    code: &mut String,
    message: &MessageDescriptor,
    is_persisted: bool,
) -> std::fmt::Result {
    let name = message.name();
    let mut body = format!("f.write_str(\"{name} [redacted]\")");
    if is_persisted && !is_envelope(message) {
        body = format!("f.debug_struct(\"{name}\")");
        for field in message.fields() {
            let (field, is_personal) =
                (field.name().to_owned(), category_if_personal(&field).is_some());
            let value = if is_personal {
                "&::core::format_args!(\"[redacted]\")".to_owned()
            } else {
                format!("&self.{field}")
            };
            write!(body, ".field(\"{field}\", {value})")?;
        }
        body.push_str(".finish()");
    }
    writeln!(
        code,
        "impl ::core::fmt::Debug for {name} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
                 {body}\n    \
             }}\n\
         }}"
    )
}

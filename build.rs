//! Compiles `proto/` into messages and, per service, a trait, its registration in the registry mux and a typed client.
//!
//! Needs no system `protoc`, no network and no database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

use prost_build::{Method, Service, ServiceGenerator};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        protox::compile(["proto/agent.proto", "proto/tailnet.proto"], ["proto"]).map_err(io::Error::other)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    fs::write(out.join("layouts.rs"), layouts(&files))?;
    prost_build::Config::new()
        // Equal nodes must encode to equal bytes, which is how the coordinator compares them.
        .btree_map([".coder.tailnet.v2.Node"])
        // Read up to a bound; see `src/proto/bounded.rs`.
        .extern_path(
            ".coder.tailnet.v2.TelemetryRequest",
            "crate::proto::tailnet::TelemetryRequest",
        )
        // Hold a token; src/proto.rs has a Debug that does not show it.
        .skip_debug([
            ".coder.agent.v2.SubAgent",
            ".coder.tailnet.v2.RefreshResumeTokenResponse",
        ])
        .service_generator(Box::new(Generator))
        .compile_fds(files)
}

/// Writes plain text; rustc checks what comes out.
struct Generator;

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        // Writing into a String cannot fail.
        let _ = write_trait(&service, out);
        let _ = write_registration(&service, out);
        let _ = write_client(&service, out);
    }
}

/// Repeated fields whose entries the decoder bounds itself; see `src/proto/bounded.rs`.
const BOUNDED: [&str; 1] = [".coder.tailnet.v2.TelemetryRequest.events"];

/// Where elements can be in the messages that requests are made of, and which method takes which.
fn layouts(files: &FileDescriptorSet) -> String {
    let mut messages = BTreeMap::new();
    for file in &files.file {
        collect(&format!(".{}", file.package()), &file.message_type, &mut messages);
    }
    let methods = || {
        let services = files
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file, service)));
        services.flat_map(|(file, service)| {
            service.method.iter().map(move |method| {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                (path, method.input_type())
            })
        })
    };
    let mut used = BTreeSet::new();
    for (_, input) in methods() {
        reach(input, &messages, &mut used);
    }
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_layouts(methods(), &used, &messages, &mut out);
    out
}

type Messages<'f> = BTreeMap<String, &'f DescriptorProto>;

fn collect<'f>(prefix: &str, of: &'f [DescriptorProto], messages: &mut Messages<'f>) {
    for message in of {
        let name = format!("{prefix}.{}", message.name());
        collect(&name, &message.nested_type, messages);
        messages.insert(name, message);
    }
}

/// Adds the message and all that its fields hold.
fn reach<'f>(name: &'f str, messages: &Messages<'f>, found: &mut BTreeSet<&'f str>) {
    if found.insert(name)
        && let Some(message) = messages.get(name)
    {
        for field in message
            .field
            .iter()
            .filter(|field| field.r#type() == Type::Message)
        {
            reach(field.type_name(), messages, found);
        }
    }
}

fn static_name(message: &str) -> String {
    message.trim_start_matches('.').replace('.', "_").to_uppercase()
}

fn write_layouts<'f>(
    methods: impl Iterator<Item = (String, &'f str)>,
    used: &BTreeSet<&str>,
    messages: &Messages<'_>,
    out: &mut String,
) -> std::fmt::Result {
    for name in used {
        writeln!(out, "static {}: Layout = Layout(&[", static_name(name))?;
        for field in messages.get(*name).iter().flat_map(|message| &message.field) {
            let repeated = field.label() == Label::Repeated;
            let counted = repeated && !BOUNDED.contains(&&*format!("{name}.{}", field.name()));
            let kind = match field.r#type() {
                Type::Message if counted => format!("Field::Each(&{})", static_name(field.type_name())),
                Type::Message => format!("Field::One(&{})", static_name(field.type_name())),
                _ if !repeated => continue,
                Type::String | Type::Bytes => "Field::Texts".to_owned(),
                Type::Double | Type::Fixed64 | Type::Sfixed64 => "Field::Fixed(8)".to_owned(),
                Type::Float | Type::Fixed32 | Type::Sfixed32 => "Field::Fixed(4)".to_owned(),
                _ => "Field::Varints".to_owned(),
            };
            writeln!(out, "    ({}, {kind}),", field.number())?;
        }
        writeln!(out, "]);")?;
    }
    writeln!(out, "pub(super) static REQUESTS: &[(&str, &Layout)] = &[")?;
    for (path, input) in methods {
        writeln!(out, "    (\"{path}\", &{}),", static_name(input))?;
    }
    writeln!(out, "];")
}

fn path(service: &Service, method: &Method) -> String {
    format!(
        "/{}.{}/{}",
        service.package, service.proto_name, method.proto_name
    )
}

fn write_docs(method: &Method, out: &mut String) -> std::fmt::Result {
    writeln!(out, "    /// `{}`.", method.proto_name)?;
    for line in &method.comments.leading {
        writeln!(out, "    ///{line}")?;
    }
    Ok(())
}

/// Arguments and result of a method, as its trait declares them.
fn signature(method: &Method) -> (Vec<(&'static str, String)>, String) {
    let (req, res) = (&method.input_type, &method.output_type);
    let request = if method.client_streaming {
        ("requests", format!("crate::mux::Inbound<{req}>"))
    } else {
        ("request", req.clone())
    };
    if method.server_streaming {
        (
            vec![request, ("replies", format!("crate::mux::Outbound<{res}>"))],
            "()".to_owned(),
        )
    } else {
        (vec![request], res.clone())
    }
}

fn write_trait(service: &Service, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "/// The server side of `{}.{}`.",
        service.package, service.proto_name
    )?;
    writeln!(
        out,
        "///\n/// A method that is not overridden answers code 12, `Unimplemented`."
    )?;
    writeln!(out, "pub trait {}: Send + Sync + 'static {{", service.name)?;
    for method in &service.methods {
        let (args, output) = signature(method);
        write_docs(method, out)?;
        write!(out, "    fn {}(&self", method.name)?;
        for (name, ty) in &args {
            write!(out, ", {name}: {ty}")?;
        }
        writeln!(
            out,
            ") -> impl Future<Output = Result<{output}, crate::mux::Status>> + Send {{"
        )?;
        for (name, _) in &args {
            writeln!(out, "        let _ = {name};")?;
        }
        writeln!(
            out,
            "        async {{ Err(crate::mux::Status::unimplemented()) }}\n    }}"
        )?;
    }
    writeln!(out, "}}\n")
}

fn write_registration(service: &Service, out: &mut String) -> std::fmt::Result {
    let name = &service.name;
    writeln!(
        out,
        "/// Registers every method of `{}.{}`.",
        service.package, service.proto_name
    )?;
    writeln!(
        out,
        "///\n/// `service` finds the implementation in what the registry knows of a session."
    )?;
    writeln!(
        out,
        "pub fn register_{}<S: 'static, T: {name}>(registry: &mut crate::mux::Registry<S>, \
         service: fn(&S) -> std::sync::Arc<T>) {{",
        service.proto_name.to_lowercase()
    )?;
    for method in &service.methods {
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => "unary",
            (false, true) => "server_stream",
            (true, false) => "client_stream",
            (true, true) => "bidi",
        };
        let (args, _) = signature(method);
        let typed: Vec<_> = args.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
        let names: Vec<_> = args.iter().map(|(name, _)| *name).collect();
        writeln!(
            out,
            "    registry.{kind}(\"{}\", move |session: &S, {}| {{\n        let service = service(session);\n        \
             async move {{ service.{}({}).await }}\n    }});",
            path(service, method),
            typed.join(", "),
            method.name,
            names.join(", ")
        )?;
    }
    writeln!(out, "}}\n")
}

fn write_client(service: &Service, out: &mut String) -> std::fmt::Result {
    let name = &service.name;
    writeln!(
        out,
        "/// The client side of `{}.{}`.",
        service.package, service.proto_name
    )?;
    writeln!(
        out,
        "#[derive(Clone, Debug)]\npub struct {name}Client(crate::mux::Client);\n"
    )?;
    writeln!(out, "impl {name}Client {{")?;
    writeln!(out, "    /// Calls over `client`'s session.")?;
    writeln!(
        out,
        "    pub fn new(client: crate::mux::Client) -> Self {{\n        Self(client)\n    }}"
    )?;
    for method in &service.methods {
        let (req, res) = (&method.input_type, &method.output_type);
        let path = path(service, method);
        let (arg, call, output) = match (method.client_streaming, method.server_streaming) {
            (false, false) => (format!(", request: &{req}"), "unary", res.clone()),
            (false, true) => (
                format!(", request: &{req}"),
                "server_stream",
                format!("crate::mux::Inbound<{res}>"),
            ),
            (true, false) => (
                String::new(),
                "client_stream",
                format!("crate::mux::ClientStream<{req}, {res}>"),
            ),
            (true, true) => (
                String::new(),
                "bidi",
                format!("(crate::mux::Outbound<{req}>, crate::mux::Inbound<{res}>)"),
            ),
        };
        let pass = if method.client_streaming { "" } else { ", request" };
        write_docs(method, out)?;
        writeln!(
            out,
            "    pub async fn {}(&self{arg}) -> Result<{output}, crate::mux::Status> {{\n        \
             self.0.{call}(\"{path}\"{pass}).await\n    }}",
            method.name
        )?;
    }
    writeln!(out, "}}\n")
}

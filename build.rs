//! Compiles `proto/` into messages and, per service, a trait, its registration in the registry mux and a typed client.
//!
//! Needs no system `protoc`, no network and no database.

use std::fmt::Write as _;
use std::io;

use prost_build::{Method, Service, ServiceGenerator};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        protox::compile(["proto/agent.proto", "proto/tailnet.proto"], ["proto"]).map_err(io::Error::other)?;
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

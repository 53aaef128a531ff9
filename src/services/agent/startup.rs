//! UpdateStartup: what an agent is and where it runs.
//!
//! Source: coder/coder `coderd/agentapi/lifecycle.go:UpdateStartup`.

use std::collections::BTreeSet;

use super::{AgentApi, agent_error, enum_name, refuse_nul, required};
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::startup::Subsystem as Proto;
use crate::store::{StartupUpdate, StoreError, Subsystem};

impl AgentApi {
    pub(super) async fn report_startup(
        &self,
        request: proto::UpdateStartupRequest,
    ) -> Result<proto::Startup, Status> {
        let (session, parts) = (&self.session, &self.services.parts);
        if session.api_version.is_empty() {
            return Err(Status::message("internal error; api version unspecified"));
        }
        let startup = request.startup.ok_or_else(|| required("startup"))?;
        tracing::debug!(
            workspace_id = %session.workspace_id,
            agent_version = startup.version,
            "post workspace agent version"
        );
        if !is_go_semver(&startup.version) {
            return Err(Status::message(format!(
                "invalid agent semver version {}",
                quote(&startup.version)
            )));
        }
        refuse_nul("startup", [&startup.version, &startup.expanded_directory])?;
        // A set of an enum in alphabetical order: sorted, and without duplicates.
        let subsystems: BTreeSet<_> = startup
            .subsystems
            .iter()
            .map(|&number| subsystem(number))
            .collect::<Result<_, _>>()?;
        let update = StartupUpdate {
            version: startup.version.clone(),
            expanded_directory: startup.expanded_directory.clone(),
            subsystems: subsystems.into_iter().collect(),
            api_version: session.api_version.to_string(),
        };
        let size = update.version.len() + update.expanded_directory.len();
        let written = parts
            .patience
            .call(session.workspace_id, size, || {
                parts.store.update_startup(session.agent_id, &update)
            })
            .await;
        written.map_err(|error| match error {
            StoreError::NoRows => agent_error(session.agent_id, &error),
            error => Status::message(format!("update workspace agent startup in database: {error}")),
        })?;
        Ok(startup)
    }
}

fn subsystem(number: i32) -> Result<Subsystem, Status> {
    match Proto::try_from(number).unwrap_or(Proto::Unspecified) {
        Proto::Envbox => Ok(Subsystem::Envbox),
        Proto::Envbuilder => Ok(Subsystem::Envbuilder),
        Proto::Exectrace => Ok(Subsystem::Exectrace),
        Proto::Unspecified => {
            let name = enum_name::<Proto>(number, Proto::as_str_name);
            Err(Status::message(format!("invalid agent subsystem \"{name}\"")))
        }
    }
}

/// Go's `semver.IsValid`: a leading `v`, then a semantic version, or only its first one or two numbers.
fn is_go_semver(version: &str) -> bool {
    let Some(version) = version.strip_prefix('v') else {
        return false;
    };
    let full = match version.split('.').count() {
        1 => format!("{version}.0.0"),
        2 => format!("{version}.0"),
        _ => version.to_owned(),
    };
    // A short form has no pre-release and no build.
    let short = full.len() != version.len();
    semver::Version::parse(&full)
        .is_ok_and(|parsed| !short || parsed.pre.is_empty() && parsed.build.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_045_versions_are_valid_as_they_are_in_go() {
        for good in [
            "v1",
            "v1.2",
            "v1.2.3",
            "v2.31.0-devel+abc",
            "v0.0.0",
            "v1.2.3-rc.1",
        ] {
            assert!(is_go_semver(good), "{good}");
        }
        for bad in [
            "", "asdf", "1.2.3", "v", "v1.", "v01", "v1.2.3.4", "v1-rc", "v1.2+x", "v1.2.x", " v1",
        ] {
            assert!(!is_go_semver(bad), "{bad}");
        }
    }
}

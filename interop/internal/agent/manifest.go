package agent

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// home is the directory that a reference agent lives in.
const home = "/home/reference"

// checkManifest refuses what a real agent refuses, and finds what ends its process.
func checkManifest(manifest *agentpb.Manifest) error {
	id, err := parseID("agent id", manifest.AgentId)
	if err != nil {
		return err
	}
	if _, err := parseID("workspace id", manifest.WorkspaceId); err != nil {
		return err
	}
	if manifest.ParentId != nil {
		if _, err := parseID("parent id", manifest.ParentId); err != nil {
			return err
		}
	}
	if err := checkDERPMap(manifest.DerpMap); err != nil {
		return err
	}
	for _, script := range manifest.Scripts {
		if _, err := parseID("script id", script.Id); err != nil {
			return err
		}
		if _, err := parseID("script log source id", script.LogSourceId); err != nil {
			return err
		}
	}
	for _, app := range manifest.Apps {
		if err := checkApp(app); err != nil {
			return err
		}
	}
	for _, devcontainer := range manifest.Devcontainers {
		if _, err := parseID("devcontainer id", devcontainer.Id); err != nil {
			return err
		}
	}
	if id == uuid.Nil {
		return errors.New("nil agentID returned by manifest")
	}
	return nil
}

func parseID(what string, raw []byte) (uuid.UUID, error) {
	id, err := uuid.FromBytes(raw)
	if err != nil {
		return id, fmt.Errorf("parse %s: %w", what, err)
	}
	return id, nil
}

// checkApp refuses levels that the agent does not know, the unspecified ones among them.
func checkApp(app *agentpb.WorkspaceApp) error {
	if _, err := parseID("app id", app.Id); err != nil {
		return err
	}
	if _, known := agentpb.WorkspaceApp_SharingLevel_name[int32(app.SharingLevel)]; !known || app.SharingLevel == 0 {
		return fmt.Errorf("app %q: unknown sharing level %s", app.Slug, app.SharingLevel)
	}
	if _, known := agentpb.WorkspaceApp_Health_name[int32(app.Health)]; !known || app.Health == 0 {
		return fmt.Errorf("app %q: unknown health %s", app.Slug, app.Health)
	}
	if app.Healthcheck == nil {
		return fatal{fmt.Errorf("app %q without healthcheck", app.Slug)}
	}
	return nil
}

// checkDERPMap finds the map that a real agent's decoder crashes on. An absent map is tolerated.
func checkDERPMap(derpMap *tailnetpb.DERPMap) error {
	if derpMap != nil && derpMap.HomeParams == nil {
		return fatal{errors.New("DERP map without home_params")}
	}
	return nil
}

// expandDirectory makes a manifest's directory absolute, from the home directory.
func expandDirectory(directory string) string {
	if directory == "~" {
		return home
	}
	if rest, found := strings.CutPrefix(directory, "~/"); found {
		return path.Join(home, rest)
	}
	if directory == "" || path.IsAbs(directory) {
		return directory
	}
	return path.Join(home, directory)
}

// homeRegion is the region that the agent picks as its home: the lowest number, 0 without any.
func homeRegion(derpMap *tailnetpb.DERPMap) int32 {
	lowest := int64(0)
	for id := range derpMap.GetRegions() {
		if lowest == 0 || id < lowest {
			lowest = id
		}
	}
	return int32(lowest)
}

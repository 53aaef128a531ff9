package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// banners asks for the banners, in the way of the API version.
func (c *connection) banners(ctx context.Context) error {
	var answer proto.Message
	if c.minor >= minorAnnouncementBanners {
		response, err := c.client.GetAnnouncementBanners(ctx, &agentpb.GetAnnouncementBannersRequest{})
		if response, err = call(ctx, c, "GetAnnouncementBanners", response, err); err != nil {
			return err
		}
		answer = response
	} else {
		response, err := c.client.GetServiceBanner(ctx, &agentpb.GetServiceBannerRequest{})
		if response, err = call(ctx, c, "GetServiceBanner", response, err); err != nil {
			return err
		}
		answer = response
	}
	c.report.update(func(r *Report) { r.Banners = message(answer) })
	return nil
}

func (c *connection) bannerLoop(ctx context.Context) error {
	for sleep(ctx, c.config.BannerInterval) {
		if err := c.banners(ctx); err != nil {
			return err
		}
	}
	return nil
}

// monitorResources pushes the newest datapoints each time that the queue of them is full.
func (c *connection) monitorResources(ctx context.Context) error {
	response, err := c.client.GetResourcesMonitoringConfiguration(
		ctx, &agentpb.GetResourcesMonitoringConfigurationRequest{})
	if response, err = call(ctx, c, "GetResourcesMonitoringConfiguration", response, err); err != nil {
		return err
	}
	c.report.update(func(r *Report) { r.Monitoring = message(response) })
	config := response.GetConfig()
	if config == nil || config.NumDatapoints <= 0 || config.CollectionIntervalSeconds <= 0 {
		return fatal{fmt.Errorf(
			"monitoring configuration with %d datapoints every %d s",
			config.GetNumDatapoints(), config.GetCollectionIntervalSeconds(),
		)}
	}
	if response.Memory == nil && len(response.Volumes) == 0 {
		return nil
	}
	interval := time.Duration(config.CollectionIntervalSeconds) * time.Second
	if c.config.MonitorInterval > 0 {
		interval = c.config.MonitorInterval
	}
	points := []*agentpb.PushResourcesMonitoringUsageRequest_Datapoint{}
	for sleep(ctx, interval) {
		points = append(points, datapoint(response))
		if len(points) > int(config.NumDatapoints) {
			points = points[1:]
		}
		if len(points) == int(config.NumDatapoints) {
			response, err := c.client.PushResourcesMonitoringUsage(
				ctx, &agentpb.PushResourcesMonitoringUsageRequest{Datapoints: points})
			_, _ = call(ctx, c, "PushResourcesMonitoringUsage", response, err)
		}
	}
	return nil
}

func datapoint(
	monitors *agentpb.GetResourcesMonitoringConfigurationResponse,
) *agentpb.PushResourcesMonitoringUsageRequest_Datapoint {
	point := &agentpb.PushResourcesMonitoringUsageRequest_Datapoint{CollectedAt: timestamppb.Now()}
	if monitors.Memory != nil {
		point.Memory = &agentpb.PushResourcesMonitoringUsageRequest_Datapoint_MemoryUsage{Used: 1 << 30, Total: 4 << 30}
	}
	for _, volume := range monitors.Volumes {
		point.Volumes = append(point.Volumes, &agentpb.PushResourcesMonitoringUsageRequest_Datapoint_VolumeUsage{
			Volume: volume.Path, Used: 1 << 30, Total: 8 << 30,
		})
	}
	return point
}

// stats asks for the interval with an empty report, then reports in the interval that the last reply gave.
func (c *connection) stats(ctx context.Context) error {
	request := &agentpb.UpdateStatsRequest{}
	for {
		response, err := c.client.UpdateStats(ctx, request)
		if response, err = call(ctx, c, "UpdateStats", response, err); err != nil {
			return err
		}
		interval := response.GetReportInterval().AsDuration()
		if interval <= 0 {
			return errors.New("report interval is not positive")
		}
		c.report.update(func(r *Report) {
			if len(r.StatsAt) < maxKept {
				r.StatsAt = append(r.StatsAt, r.now())
			}
			r.StatsInterval = interval.Milliseconds()
		})
		if !sleep(ctx, interval) {
			return nil
		}
		request = &agentpb.UpdateStatsRequest{Stats: c.sample()}
	}
}

// sample is what an agent measures: of nobody, or of an editor and a shell when it is used.
func (c *connection) sample() *agentpb.Stats {
	stats := &agentpb.Stats{
		ConnectionsByProto: map[string]int64{},
		// No peer was measured: minus one microsecond, in the unit of the field.
		ConnectionMedianLatencyMs: -0.001,
		RxPackets:                 10, RxBytes: 1000, TxPackets: 20, TxBytes: 2000,
	}
	if c.config.Use {
		stats.ConnectionsByProto["TCP"] = 2
		stats.ConnectionCount, stats.ConnectionMedianLatencyMs = 2, 12.5
		stats.SessionCountVscode, stats.SessionCountSsh = 1, 1
		stats.Metrics = []*agentpb.Stats_Metric{{
			Name: "agent_sessions_total", Type: agentpb.Stats_Metric_COUNTER, Value: 2,
			Labels: []*agentpb.Stats_Metric_Label{{Name: "magic_type", Value: "ssh"}},
		}}
	}
	return stats
}

// appHealth reports every app that is checked as healthy, one second after the manifest.
func (c *connection) appHealth(ctx context.Context, manifest *agentpb.Manifest) error {
	request := &agentpb.BatchUpdateAppHealthRequest{}
	for _, app := range manifest.Apps {
		if app.Health != agentpb.WorkspaceApp_DISABLED && app.Health != agentpb.WorkspaceApp_HEALTHY {
			update := &agentpb.BatchUpdateAppHealthRequest_HealthUpdate{Id: app.Id, Health: agentpb.AppHealth_HEALTHY}
			request.Updates = append(request.Updates, update)
		}
	}
	if len(request.Updates) > 0 && sleep(ctx, time.Second) {
		response, err := c.client.BatchUpdateAppHealths(ctx, request)
		_, _ = call(ctx, c, "BatchUpdateAppHealths", response, err)
	}
	return nil
}

// Times of the metadata reports.
const (
	metadataTick    = time.Second
	metadataTimeout = 30 * time.Second
)

// reportMetadata collects every item at once and then in its interval, one report at a time.
func (c *connection) reportMetadata(ctx context.Context) error {
	select {
	case <-c.manifestKnown:
	case <-ctx.Done():
		return nil
	}
	collected := map[string]time.Time{}
	for round := 0; ; round++ {
		c.mu.Lock()
		items := c.manifest.Metadata
		c.mu.Unlock()
		now := time.Now()
		request := &agentpb.BatchUpdateMetadataRequest{}
		for _, item := range items {
			if last, before := collected[item.Key]; before && !metadataDue(item, now.Sub(last)) {
				continue
			}
			collected[item.Key] = now
			request.Metadata = append(request.Metadata, &agentpb.Metadata{
				Key: item.Key,
				Result: &agentpb.WorkspaceAgentMetadata_Result{
					CollectedAt: timestamppb.New(now), Value: fmt.Sprintf("%s %d", item.Script, round),
				},
			})
		}
		if len(request.Metadata) > 0 {
			limited, cancel := context.WithTimeout(ctx, metadataTimeout)
			response, err := c.client.BatchUpdateMetadata(limited, request)
			cancel()
			if _, err = call(ctx, c, "BatchUpdateMetadata", response, err); err != nil {
				return err
			}
			c.report.update(func(r *Report) {
				for _, item := range request.Metadata {
					r.MetadataValues[item.Key]++
				}
			})
		}
		if !sleep(ctx, metadataTick) {
			return nil
		}
	}
}

// metadataDue is whether an item is collected again; an interval of 0 is once. The number of nanoseconds counts as
// seconds: that is how agents read it.
func metadataDue(item *agentpb.WorkspaceAgentMetadata_Description, since time.Duration) bool {
	interval := time.Duration(item.GetInterval().AsDuration().Nanoseconds()) * time.Second
	// A tick may come a little early.
	return interval > 0 && since >= interval-metadataTick/10
}

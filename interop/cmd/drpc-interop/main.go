// Command drpc-interop drives a server with the Go libraries that real agents are made of.
//
// Each verb prints one JSON object on standard output when it ends, progress goes to standard error, and the exit code
// is 0 only if what was asked for held. Only loopback addresses are dialed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/transport"
)

// maxRun bounds every run.
const maxRun = 2 * time.Hour

// maxSessions bounds the sessions of a run that may have many.
const maxSessions = 10_000

// exitDied is the exit code when a real agent's process would have died.
const exitDied = 3

type verb struct {
	name, help string
	run        func(ctx context.Context, flags *flag.FlagSet, args []string) (result any, ok bool, err error)
}

var verbs = []verb{
	{"agent", "be a reference agent", runAgent},
	{"client", "be a reference client", runClient},
	{"calls", "make many unary calls over one or more sessions", runCalls},
	{"streams", "hold idle and silent streams beside calls", runStreams},
	{"hostile", "send one kind of bad input and say how the server took it", runHostile},
	{"flood", "send one kind of bad input over and over", runFlood},
	{"crowd", "make calls as many agents at a time, and say how long they took", runCrowd},
	{"idle", "hold many idle agents with their two long streams", runIdle},
	{"soak", "let many reference agents come and go", runSoak},
	{"bench-server", "serve with the Go libraries, to compare with", runBenchServer},
	{"script-server", "serve the test script with the Go libraries", runScriptServer},
	{"script-answers", "write what the test script answers to the methods of the real services", runScriptAnswers},
	{"script-client", "have a session with the test script", runScriptClient},
}

func main() {
	index := -1
	if len(os.Args) > 1 {
		index = slices.IndexFunc(verbs, func(v verb) bool { return v.name == os.Args[1] })
	}
	if index < 0 {
		fmt.Fprintln(os.Stderr, "usage: drpc-interop VERB [flags]")
		for _, v := range verbs {
			fmt.Fprintf(os.Stderr, "  %-13s %s\n", v.name, v.help)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, maxRun)
	defer cancel()
	flags := flag.NewFlagSet(verbs[index].name, flag.ExitOnError)
	result, ok, err := verbs[index].run(ctx, flags, os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if report, is := result.(*agent.Report); is && report.Died != "" {
		os.Exit(exitDied)
	}
	if !ok {
		os.Exit(1)
	}
}

// dialFlags adds the flags that say what to dial.
func dialFlags(flags *flag.FlagSet) *transport.Options {
	options := &transport.Options{}
	flags.StringVar(&options.URL, "url", os.Getenv("CODER_AGENT_URL"), "server, a loopback address")
	flags.StringVar(&options.Token, "token", os.Getenv("CODER_AGENT_TOKEN"), "agent token")
	flags.StringVar(&options.Version, "version", "2.8", "API version, empty to leave it out")
	flags.StringVar(&options.Role, "role", "agent", "role, empty to leave it out")
	flags.BoolVar(&options.Cookie, "cookie", false, "send the token in a cookie")
	flags.DurationVar(&options.StreamOpenTimeout, "stream-open-timeout", 0, "yamux's StreamOpenTimeout, 0 for its default")
	return options
}

// tokensFlag adds the flag of verbs whose sessions may be those of many agents.
func tokensFlag(flags *flag.FlagSet) *string {
	return flags.String("tokens", "", "file with an agent's token on each line, taken in turn; --token without")
}

// asAgents is what count sessions dial, with the tokens of a file in turn if one is named; 0 is one for each token.
func asAgents(options transport.Options, tokens string, count int) ([]transport.Options, error) {
	list := []string{options.Token}
	if tokens != "" {
		var err error
		if list, err = readLines(tokens); err != nil {
			return nil, err
		}
	}
	if count == 0 {
		count = len(list)
	}
	if count < 0 || count > maxSessions {
		return nil, fmt.Errorf("%d sessions are out of range", count)
	}
	dials := make([]transport.Options, count)
	for i := range dials {
		dials[i] = options
		dials[i].Token = list[i%len(list)]
	}
	return dials, nil
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected arguments: %s", strings.Join(flags.Args(), " "))
	}
	return nil
}

func runAgent(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	config := agent.Config{Progress: os.Stderr}
	options := dialFlags(flags)
	duration := flags.Duration("duration", time.Minute, "stop after this time")
	flags.DurationVar(&config.StopAfterReady, "stop-after-ready", 0, "stop this long after ready")
	flags.BoolVar(&config.Abrupt, "kill", false, "end without any goodbye")
	flags.DurationVar(&config.CutEvery, "cut-after", 0, "cut the connection this long after each manifest")
	flags.IntVar(&config.Cuts, "cuts", 1, "how often to cut it")
	flags.DurationVar(&config.FreezeAfter, "freeze-after", 0, "stop reading and writing this long after it is ready")
	flags.DurationVar(&config.StartScript, "start-script", 0, "how long start scripts run, with a log line per second")
	flags.DurationVar(&config.StopScript, "stop-script", 0, "how long stop scripts run")
	flags.IntVar(&config.ExtraLogLines, "log-lines", 0, "extra log lines at start")
	flags.IntVar(&config.ExtraLogBytes, "log-bytes", 100, "bytes of each")
	flags.BoolVar(&config.Use, "use", false, "when ready, do once what people and tools make an agent do")
	flags.DurationVar(&config.BannerInterval, "banner-interval", 0, "0 is the real two minutes")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	config.Dial = *options
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	report := agent.Run(ctx, config)
	return report, report.OK, nil
}

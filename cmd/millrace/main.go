// Command millrace is the whole platform: it takes measurements over MQTT and HTTP, stores them, and shows them live.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

//go:generate go run . config --markdown=../../docs/configuration.md

// cli is the command line. Each subcommand has a file of its own.
type cli struct {
	Config string `name:"config" placeholder:"FILE" help:"Settings file: a line of key = value for each setting, the keys being the flags of serve without the dashes. Flags and environment variables win over it."`

	Serve    serveCmd    `cmd:"" help:"Run the server."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database to this version's schema, and end."`
	Simulate simulateCmd `cmd:"" help:"Publish what a simulated plant measures to any MQTT broker."`
	Watch    watchCmd    `cmd:"" help:"Show a group's live values in the terminal."`
	Publish  publishCmd  `cmd:"" help:"Send one measurement of a device, over MQTT or HTTP."`
	Token    tokenCmd    `cmd:"" help:"Create, list and revoke API tokens."`
	User     userCmd     `cmd:"" help:"Create and list users, and set their passwords."`
	Backup   backupCmd   `cmd:"" help:"Write inventory and history into one file, also while the server runs."`
	Restore  restoreCmd  `cmd:"" help:"Put what a backup holds into the database, or check the file."`
	Settings settingsCmd `cmd:"" name:"config" help:"Show every setting of serve with its default."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

// console is where a subcommand talks to people.
type console struct {
	out, err io.Writer
}

// exitError ends the process with a code and no further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	os.Exit(start(os.Args[1:], &console{out: os.Stdout, err: os.Stderr}))
}

// start runs the command line and returns the exit code. The first interrupt ends the context, the second the process.
func start(args []string, con *console) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		<-signals
		cancel()
		// Some shells and programs send the first one twice, to us and to our process group.
		for first := time.Now(); ; {
			<-signals
			if time.Since(first) > 300*time.Millisecond {
				break
			}
		}
		fmt.Fprintln(con.err, "millrace: interrupted again, stopping at once")
		os.Exit(130)
	}()

	var c cli
	code := -1
	parser, err := newParser(&c, args, con, func(status int) { code = status })
	if err != nil {
		fmt.Fprintln(con.err, "millrace:", err)
		return 2
	}
	parsed, err := parser.Parse(args)
	if code >= 0 { // --help has been answered
		return code
	}
	if err != nil {
		fmt.Fprintln(con.err, "millrace:", err)
		if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil && parse.Context.Selected() == nil {
			fmt.Fprintln(con.err, "Try: millrace --help")
		}
		return 2
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(con)
	if err := parsed.Run(); err != nil {
		if code, ok := errors.AsType[exitError](err); ok {
			return int(code)
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return 130
		}
		fmt.Fprintln(con.err, "millrace:", err)
		return 1
	}
	return 0
}

// newParser builds the command line, with the settings file that args or the environment name.
func newParser(c *cli, args []string, con *console, exit func(int)) (*kong.Kong, error) {
	options := []kong.Option{
		kong.Name("millrace"),
		kong.Description("Live telemetry in one binary: devices publish over MQTT or HTTP, people watch.\n\nStart with: millrace serve --demo"),
		kong.DefaultEnvars("MILLRACE"),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Writers(con.out, con.err),
		kong.Exit(exit),
	}
	if path := settingsPath(args); path != "" {
		file, err := readSettings(path)
		if err != nil {
			return nil, err
		}
		options = append(options, kong.Resolvers(file))
	}
	return kong.New(c, options...)
}

type versionCmd struct{}

func (versionCmd) Run(con *console) error {
	v, commit := version()
	if commit != "" {
		v += " (" + commit + ")"
	}
	info, _ := debug.ReadBuildInfo()
	fmt.Fprintf(con.out, "millrace %s, %s\n", v, info.GoVersion)
	return nil
}

// stamp is the version as the build was told (-ldflags "-X main.stamp=…"); "" when it was not.
var stamp string

// version returns the version and the commit that the binary was built from, as far as Go recorded them.
func version() (v, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	v = info.Main.Version
	if v == "" || v == "(devel)" {
		v = "development"
	}
	if stamp != "" {
		v = stamp
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = s.Value[:12] + commit
		case s.Key == "vcs.modified" && s.Value == "true":
			commit += ", changed"
		}
	}
	return v, commit
}

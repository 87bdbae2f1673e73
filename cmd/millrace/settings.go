package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// settingsPath finds --config before the command line is parsed, because parsing needs what the file says.
func settingsPath(args []string) string {
	for i, a := range args {
		if a == "--" {
			break
		}
		if v, ok := strings.CutPrefix(a, "--config="); ok {
			return v
		}
		if a == "--config" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return os.Getenv("MILLRACE_CONFIG")
}

// settings are the lines of a settings file. It is kong's resolver of last resort: flag, then environment, then file.
type settings struct {
	path  string
	lines map[string]settingLine
}

type settingLine struct {
	number int
	value  string
}

// readSettings reads lines of key = value. Empty lines and those that begin with # say nothing; a value in double quotes is
// written as in Go, so that it can hold spaces at its ends.
func readSettings(path string) (*settings, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	s := &settings{path: path, lines: map[string]settingLine{}}
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" {
			return nil, fmt.Errorf("%s:%d: %q is not key = value", path, n, line)
		}
		if strings.HasPrefix(value, `"`) {
			if value, err = strconv.Unquote(value); err != nil {
				return nil, fmt.Errorf("%s:%d: %s: the quotes don't match", path, n, key)
			}
		}
		if first, twice := s.lines[key]; twice {
			return nil, fmt.Errorf("%s:%d: %s is set already in line %d", path, n, key, first.number)
		}
		s.lines[key] = settingLine{n, value}
	}
	return s, scanner.Err()
}

// Validate refuses keys that are no setting of serve.
func (s *settings) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, f := range serveFlags(app) {
		known[f.Name] = true
	}
	var unknown []string
	for key, line := range s.lines {
		if !known[key] {
			unknown = append(unknown, fmt.Sprintf("%s:%d: there is no setting %q", s.path, line.number, key))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return fmt.Errorf("%s (millrace config shows all)", strings.Join(unknown, "\n"))
}

// Resolve gives a flag the file's value unless the environment has one.
func (s *settings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	line, ok := s.lines[flag.Name]
	if !ok || !isSetting(flag) {
		return nil, nil
	}
	for _, env := range flag.Envs {
		if _, set := os.LookupEnv(env); set {
			return nil, nil
		}
	}
	return line.value, nil
}

// isSetting tells settings, which other subcommands share with serve, from flags that are a subcommand's own.
func isSetting(f *kong.Flag) bool { return f.Group != nil }

// serveFlags are the flags of serve: the settings.
func serveFlags(app *kong.Application) []*kong.Flag {
	for _, node := range app.Children {
		if node.Name == "serve" {
			return slices.DeleteFunc(slices.Clone(node.Flags), func(f *kong.Flag) bool { return !isSetting(f) })
		}
	}
	return nil
}

// settingsCmd shows the settings, for people or as the page of the documentation.
type settingsCmd struct {
	Markdown string `placeholder:"FILE" help:"Write the page of the documentation into this file instead."`
}

func (c *settingsCmd) Run(app *kong.Kong, con *console) error {
	if c.Markdown != "" {
		return os.WriteFile(c.Markdown, settingsPage(app.Model), 0o644)
	}
	_, err := con.out.Write(settingsPage(app.Model))
	return err
}

// settingsPage is docs/configuration.md.
func settingsPage(app *kong.Application) []byte {
	var b bytes.Buffer
	b.WriteString("# Settings\n\n" +
		"Made from the program by `go generate ./cmd/millrace`; don't edit.\n\n" +
		"Every setting is a flag of `millrace serve`, an environment variable and a key of the settings file. A flag wins over the\n" +
		"environment, the environment over the file, the file over the default. None is needed: `millrace serve` works as it is.\n\n" +
		"The settings file is named by `--config FILE` or `MILLRACE_CONFIG`. It has a line of `key = value` for each setting; empty lines\n" +
		"and lines that begin with `#` say nothing, and a value in double quotes can hold spaces at its ends. Unknown keys are refused.\n\n" +
		"```\n# /etc/millrace.conf\nhttp-addr = :8080\ndata-dir  = /var/lib/millrace\nlog-format = json\n```\n\n" +
		"Durations are written like `50ms`, `30s` or `2h`. Addresses are `host:port` or `:port`; port 0 picks a free one, and the log says which.\n" +
		"What an environment variable should not show to others (`MILLRACE_ADMIN_PASSWORD`, `MILLRACE_ADMIN_TOKEN`) can stand in a file that only the server can read.\n")
	var group string
	for _, f := range serveFlags(app) {
		if f.Group.Title != group {
			group = f.Group.Title
			fmt.Fprintf(&b, "\n## %s\n\n| flag | environment | default | what |\n|---|---|---|---|\n", group)
		}
		value := "none"
		if f.HasDefault && f.Default != "" {
			value = "`" + f.Default + "`"
		} else if f.IsBool() {
			value = "off"
		}
		help := strings.ReplaceAll(f.Help, "|", `\|`)
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", f.Name, strings.Join(f.Envs, "`, `"), value, help)
	}
	return b.Bytes()
}

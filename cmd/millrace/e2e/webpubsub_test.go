package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const accessKey = "e2eAccessKey0123456789abcdefghijklmnopqrstuv"

// startWebPubSub runs the program with a key that is known.
func startWebPubSub(t *testing.T) *server {
	t.Helper()
	return start(t, "--access-key", accessKey, "--webpubsub-handler-origin", "127.0.0.1", "--webpubsub-handler-pauses", "100ms,100ms", "--webpubsub-window", "5s", "--webpubsub-endpoint", "https://pubsub.example")
}

func (s *server) connectionString() string {
	return "Endpoint=" + s.http + ";AccessKey=" + accessKey + ";Version=1.0;"
}

// script runs a script of ./webpubsub with the packages of web, on a hub of its own.
func (s *server) script(t *testing.T, name, hub string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	modules, err := filepath.Abs("../../../web/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(ctx, "node", filepath.Join("webpubsub", name))
	node.Env = append(os.Environ(), append(env, "NODE_PATH="+modules, "CONNECTION_STRING="+s.connectionString(), "HUB="+hub, "ADMIN_TOKEN="+adminToken)...)
	var out, failed strings.Builder
	node.Stdout, node.Stderr = &out, &failed
	if err := node.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out.String(), failed.String())
	}
	t.Logf("%d checks", strings.Count(out.String(), "ok "))
}

// Azure's packages, as npm has them, do against our server whatever they can do.
func TestAzurePackages(t *testing.T) {
	s := startWebPubSub(t)
	for _, c := range []struct{ name, script, hub, client, protocol string }{
		{"service", "service.mjs", "service", "", ""},
		{"client 1.1 json", "client.mjs", "client11j", "@azure/web-pubsub-client", "json"},
		{"client 1.1 reliable", "client.mjs", "client11r", "@azure/web-pubsub-client", "reliable"},
		{"client 1.0 json", "client.mjs", "client10j", "web-pubsub-client-1.0", "json"},
		{"client 1.0 reliable", "client.mjs", "client10r", "web-pubsub-client-1.0", "reliable"},
		{"express", "express.mjs", "express", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) { s.script(t, c.script, c.hub, "CLIENT="+c.client, "PROTOCOL="+c.protocol) })
	}
}

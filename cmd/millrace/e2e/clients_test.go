package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mosquittoPub publishes with a foreign client and returns what it printed.
func mosquittoPub(t *testing.T, s *server, version, user, password, topic, payload string, more ...string) (string, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-h", host, "-p", port, "-V", version, "-u", user, "-P", password, "-t", topic, "-m", payload, "-q", "1"}, more...)
	out, err := exec.Command("mosquitto_pub", args...).CombinedOutput()
	return string(out), err
}

// Every door, by a client that is not ours; each value is seen by a viewer.
func TestForeignClients(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1/line2", "label": "Line 2"}, nil)
	token := s.device("press-7", "plant1/line2")
	v := watch(t, s, adminToken, "plant1", nil)

	if out, err := mosquittoPub(t, s, "5", "press-7", token, "devices/press-7/telemetry", `{"temp":21.5,"pump":{"rpm":880}}`); err != nil {
		t.Fatalf("mosquitto_pub -V 5: %v %s", err, out)
	}
	v.sees(t, "press-7/temp", 21.5)
	v.sees(t, "press-7/pump.rpm", 880.0)
	if out, err := mosquittoPub(t, s, "311", "press-7", token, "devices/press-7/telemetry/temp", `22.25`); err != nil {
		t.Fatalf("mosquitto_pub -V 311: %v %s", err, out)
	}
	v.sees(t, "press-7/temp", 22.25)

	for i, url := range []string{"mqtt://" + s.mqtt, strings.Replace(s.http, "http", "ws", 1) + "/mqtt"} {
		value := []string{"23.5", "24.5"}[i]
		node := exec.Command("node", "-e", `
const mqtt = require("mqtt"), [url, user, token, value] = process.argv.slice(1)
const client = mqtt.connect(url, {username: user, password: token, reconnectPeriod: 0, protocolVersion: 5})
client.on("error", (e) => { console.error(e.message); process.exit(1) })
client.on("connect", () => client.publish("devices/" + user + "/telemetry", JSON.stringify({temp: Number(value)}), {qos: 1}, (e) => {
  if (e) { console.error(e.message); process.exit(1) }
  client.end(false, () => process.exit(0))
}))`, url, "press-7", token, value)
		web, _ := filepath.Abs("../../../web")
		node.Dir = web
		node.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(web, "node_modules"))
		if out, err := node.CombinedOutput(); err != nil {
			t.Fatalf("MQTT.js on %s: %v %s", url, err, out)
		}
		v.sees(t, "press-7/temp", []any{23.5, 24.5}[i])
	}

	curl := func(want, path, token, kind, body string) {
		t.Helper()
		cmd := exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Authorization: Bearer "+token, "-H", "Content-Type: "+kind,
			"--data-binary", "@-", s.http+path)
		cmd.Stdin = strings.NewReader(body)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Fatalf("curl %s: %v %s, want %s", path, err, out, want)
		}
	}
	curl("200", "/api/v1/devices/press-7/telemetry", token, "application/json", `{"temp":25.5,"state":"running","on":true}`)
	v.sees(t, "press-7/temp", 25.5)
	v.sees(t, "press-7/state", "running")
	v.sees(t, "press-7/on", true)
	curl("200", "/api/v1/telemetry", adminToken, "application/x-ndjson", `{"device":"press-7","temp":26.5}`+"\n"+`{"device":"press-7","ts":1795456789,"level":3}`)
	v.sees(t, "press-7/temp", 26.5)
	v.sees(t, "press-7/level", 3.0)

	// What must not get in: the protocol's own error, and counted.
	curl("401", "/api/v1/devices/press-7/telemetry", "mrd_wrong", "application/json", `{"temp":1}`)
	curl("400", "/api/v1/devices/press-7/telemetry", token, "application/json", `{"temp":1,`)
	curl("413", "/api/v1/devices/press-7/telemetry", token, "application/json", `{"temp":"`+strings.Repeat("x", 300<<10)+`"}`)
	for _, version := range []string{"5", "311"} {
		if out, err := mosquittoPub(t, s, version, "press-7", "wrong", "devices/press-7/telemetry", `{"temp":1}`); err == nil {
			t.Errorf("mosquitto_pub -V %s with a wrong password succeeded: %s", version, out)
		}
	}
	if out, _ := mosquittoPub(t, s, "5", "press-7", token, "devices/press-8/telemetry", `{"temp":1}`, "-d"); !strings.Contains(out, "135") && !strings.Contains(strings.ToLower(out), "not authorized") {
		t.Errorf("a foreign topic was not refused with reason 0x87: %s", out)
	}
	if out, _ := mosquittoPub(t, s, "5", "press-7", token, "devices/press-7/telemetry", `{"temp":`, "-d"); !strings.Contains(out, "153") && !strings.Contains(strings.ToLower(out), "payload format") {
		t.Errorf("a malformed payload was not refused with reason 0x99: %s", out)
	}
	var rejects struct {
		Items []struct{ Reason, Kind, Topic string }
	}
	s.must("GET", "/api/v1/devices/press-7/rejects", nil, &rejects)
	kinds := map[string]bool{}
	for _, r := range rejects.Items {
		kinds[r.Kind] = true
	}
	for _, kind := range []string{"json", "topic", "auth", "too_large"} {
		if !kinds[kind] {
			t.Errorf("no reject of kind %q is listed: %v", kind, rejects.Items)
		}
	}
	res, err := http.Get(s.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if v.value("press-7/temp") != 26.5 {
		t.Errorf("a refused value was shown: %v", v.value("press-7/temp"))
	}
}

// What was there before a stop is there after it, as old as it is; an interrupt ends every child; a kill needs no manual step.
func TestRestart(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("d1", "plant1")
	if status, body := s.callAs(token, "POST", "/api/v1/devices/d1/telemetry", `{"temp":41.5}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	for _, stop := range []func(){s.interrupt, s.kill, s.kill} {
		children := s.children()
		if len(children) == 0 {
			t.Fatal("no child process: the private Postgres was to be one")
		}
		stop()
		eventually(t, 15*time.Second, "all children have ended", func() bool { return ended(children) })
		s.run()
		v := watch(t, s, adminToken, "plant1", nil)
		v.sees(t, "d1/temp", 41.5)
		if status, body := s.callAs(token, "POST", "/api/v1/devices/d1/telemetry", `{"temp":41.5}`); status != 200 {
			t.Fatalf("after a restart: %d %s", status, body)
		}
	}
}

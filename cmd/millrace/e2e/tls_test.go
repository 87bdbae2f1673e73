package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes a CA and a certificate of it for this machine, as files.
func authority(t *testing.T) (ca, cert, key string, pool *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sign := func(template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) (*x509.Certificate, []byte) {
		t.Helper()
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made, der
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rootKey, leafKey := newKey(), newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plant"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, rootDER := sign(template, template, rootKey, rootKey)
	_, leafDER := sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "millrace"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root, leafKey, rootKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(root)
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER), pool
}

// With a certificate every door is shut to those who don't speak TLS, but plain MQTT on its own port: pages and API over HTTPS, viewers over WSS,
// devices over TLS and over WSS.
func TestTLS(t *testing.T) {
	ca, cert, key, pool := authority(t)
	strange, _, _, _ := authority(t)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	s := &server{t: t, dir: t.TempDir(), args: []string{"--tls-cert", cert, "--tls-key", key, "--mqtt-tls-addr", "127.0.0.1:0"},
		client: &http.Client{Transport: transport}}
	s.begin()
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("press-7", "plant1")
	v := watch(t, s, adminToken, "plant1", nil) // over WSS

	if status, body := s.callAs(token, "POST", "/api/v1/devices/press-7/telemetry", `{"temp":20.5}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	v.sees(t, "press-7/temp", 20.5)
	publish := func(cafile, value string, more ...string) (string, error) {
		_, port, _ := net.SplitHostPort(s.mqtts)
		out, err := exec.Command("mosquitto_pub", append([]string{"-h", "127.0.0.1", "-p", port, "-V", "5", "-u", "press-7", "-P", token,
			"-t", "devices/press-7/telemetry/temp", "-m", value, "-q", "1", "--cafile", cafile}, more...)...).CombinedOutput()
		return string(out), err
	}
	for i, version := range []string{"tlsv1.2", "tlsv1.3"} {
		if out, err := publish(ca, []string{"21.5", "22.5"}[i], "--tls-version", version); err != nil {
			t.Fatalf("mosquitto_pub over %s: %v %s", version, err, out)
		}
		v.sees(t, "press-7/temp", 21.5+float64(i))
	}
	if out, err := publish(strange, "99"); err == nil {
		t.Errorf("a client took a certificate of an authority it does not know: %s", out)
	}
	if out, err := mosquittoPub(t, s, "311", "press-7", token, "devices/press-7/telemetry/temp", "23.5"); err != nil {
		t.Fatalf("plain MQTT beside TLS: %v %s", err, out)
	}
	v.sees(t, "press-7/temp", 23.5)

	node := exec.Command("node", "-e", `
const mqtt = require("mqtt"), [url, user, token] = process.argv.slice(1)
const client = mqtt.connect(url, {username: user, password: token, reconnectPeriod: 0, protocolVersion: 5})
client.on("error", (e) => { console.error(e.message); process.exit(1) })
client.on("connect", () => client.publish("devices/" + user + "/telemetry/temp", "24.5", {qos: 1}, (e) => {
  if (e) { console.error(e.message); process.exit(1) }
  client.end(false, () => process.exit(0))
}))`, strings.Replace(s.http, "https", "wss", 1)+"/mqtt", "press-7", token)
	web, err := filepath.Abs("../../../web")
	if err != nil {
		t.Fatal(err)
	}
	node.Dir = web
	node.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+ca, "NODE_PATH="+filepath.Join(web, "node_modules"))
	if out, err := node.CombinedOutput(); err != nil {
		t.Fatalf("MQTT.js over WSS: %v %s", err, out)
	}
	v.sees(t, "press-7/temp", 24.5)

	// What must not work: old TLS, no TLS.
	for _, addr := range []string{s.http[len("https://"):], s.mqtts} {
		if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
			conn.Close()
			t.Errorf("%s speaks TLS 1.1", addr)
		}
	}
	if res, err := http.Get("http://" + s.http[len("https://"):] + "/healthz"); err == nil {
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Error("the HTTPS port answers HTTP")
		}
	}

	// Browsers are told to stay with HTTPS, and their session goes over nothing else.
	res, err := s.client.Get(s.http + "/login")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("Strict-Transport-Security") == "" {
		t.Error("HTTPS without Strict-Transport-Security")
	}
	if cookie := session(t, s, nil); !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
		t.Errorf("session cookie over HTTPS: %v", cookie)
	}

	// The command line over TLS.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cli := exec.CommandContext(ctx, binary, "watch", "--lines", "--server", s.http, "--token", adminToken, "plant1")
	cli.Env = append(os.Environ(), "SSL_CERT_FILE="+ca)
	out, err := cli.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cli.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 200)
	n, err := io.ReadAtLeast(out, line, 20)
	if err != nil || !strings.Contains(string(line[:n]), "press-7/temp") {
		t.Errorf("millrace watch over TLS: %q %v", line[:n], err)
	}
	cancel()
	_ = cli.Wait() // it was killed
}

// session signs the first admin in as a browser does, and returns the session cookie.
func session(t *testing.T, s *server, header http.Header) *http.Cookie {
	t.Helper()
	client := *s.httpClient()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	form := url.Values{"email": {"admin@example.com"}, "password": {"correct horse battery"}}
	req, err := http.NewRequest("POST", s.http+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for _, c := range res.Cookies() {
		if c.Name == "millrace_session" {
			return c
		}
	}
	t.Fatalf("sign-in answers %d without a session", res.StatusCode)
	return nil
}

// A certificate that can't be used is said at once, with the flag it came by.
func TestBadCertificate(t *testing.T) {
	_, cert, _, _ := authority(t)
	_, _, otherKey, _ := authority(t)
	for _, args := range [][]string{{"--tls-cert", cert, "--tls-key", otherKey}, {"--tls-cert", "nowhere.pem", "--tls-key", otherKey}} {
		if said := failsToStart(t, append(args, "--mqtt-tls-addr", "127.0.0.1:0")...); !strings.Contains(said, "--tls-cert") {
			t.Errorf("%v: %s", args, said)
		}
	}
}

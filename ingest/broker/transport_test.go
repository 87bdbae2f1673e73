package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.golang/paho"
	"github.com/gofiber/fiber/v2"

	"millrace/devices"
	"millrace/devices/catalog"
)

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, b := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair, certFile, keyFile
}

func TestTLS(t *testing.T) {
	_, certFile, keyFile := certificate(t)
	device, _, _ := certificate(t)
	stranger, _, _ := certificate(t)
	s := start(t, func(c *Config) { c.TLSAddr, c.TLSCert, c.TLSKey = "127.0.0.1:0", certFile, keyFile })
	sum := sha256.Sum256(device.Certificate[0])
	s.change("press-7", func(r *catalog.DeviceRecord) {
		r.Credentials = append(r.Credentials, devices.Credential{ID: "x", Device: "press-7", Kind: devices.X509Credential, Hash: sum[:]})
	})
	roots := x509.NewCertPool()
	b, err := os.ReadFile(certFile)
	if err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatal(err)
	}
	dial := func(certs ...tls.Certificate) net.Conn {
		nc, err := tls.Dial("tcp", s.TLSAddr().String(), &tls.Config{RootCAs: roots, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	c, err := s.connect5On(dial(), "press-7", "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.mustPublish(t, "devices/press-7/telemetry", "1", false)
	bare := func(c *paho.Connect) { c.UsernameFlag, c.PasswordFlag, c.Username, c.Password = false, false, "", nil }
	c, err = s.connect5On(dial(device), "", "b", bare)
	if err != nil {
		t.Fatal(err)
	}
	c.mustPublish(t, "devices/press-7/telemetry", "2", false)
	if _, err := s.connect5On(dial(stranger), "", "c", bare); err == nil {
		t.Error("an unknown certificate was let in")
	}
	if _, err := s.connect5On(dial(device), "press-8", "d", func(c *paho.Connect) { c.Password = nil }); err == nil {
		t.Error("a certificate of another device was let in")
	}
}

func TestWebSocket(t *testing.T) {
	s := start(t, nil)
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	s.Register(app)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- app.Listener(l) }()
	t.Cleanup(func() {
		s.stop()
		if err := app.Shutdown(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	ws, _, err := websocket.Dial(t.Context(), "ws://"+l.Addr().String()+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	c, err := s.connect5On(websocket.NetConn(t.Context(), ws, websocket.MessageBinary), "press-7", "ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.mustSubscribe(t, "devices/press-7/#")
	c.mustPublish(t, "devices/press-7/telemetry/temp", "1", false)
	eventually(t, "the message", func() bool { return len(c.received()) == 1 })
	if got := s.intake.got(); len(got) != 1 {
		t.Errorf("taken %q", got)
	}
}

func TestMosquittoClients(t *testing.T) {
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		t.Fatal("mosquitto_pub is not installed; scripts/tools.sh installs it")
	}
	s := start(t, nil)
	host, port, _ := net.SplitHostPort(s.Addr().String())
	f := func(version, qos, password string, ok bool) {
		t.Helper()
		out, err := exec.Command("mosquitto_pub", "-h", host, "-p", port, "-V", version, "-q", qos, "-u", "press-7", "-P", password,
			"-t", "devices/press-7/telemetry/temp", "-m", version+"/"+qos).CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("-V %s -q %s: %v %s", version, qos, err, out)
		}
		eventually(t, "the message", func() bool {
			got := strings.Join(s.intake.got(), " ")
			return !ok || strings.Contains(got, version+"/"+qos)
		})
	}
	for _, qos := range []string{"0", "1", "2"} {
		f("5", qos, "press-7-token", true)
		f("311", qos, "press-7-token", true)
		f("31", qos, "press-7-token", true)
	}
	f("5", "1", "wrong", false)
	f("311", "1", "wrong", false)
}

func FuzzTopics(f *testing.F) {
	for _, topic := range []string{"devices/press-7/telemetry", "devices/press-7/telemetry/temp", "devices/press-7/telemetry/", "$share/a/devices/press-7/#", "$SHARE//", "$share/", "", "devices/"} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		const prefix = "devices/press-7/"
		metric, ok := telemetryTopic(topic, prefix)
		if ok && topic != prefix+"telemetry" && topic != prefix+"telemetry/"+metric {
			t.Errorf("%q names metric %q", topic, metric)
		}
		if inner := sharedFilter(topic); !strings.HasSuffix(topic, inner) {
			t.Errorf("%q has filter %q", topic, inner)
		}
	})
}

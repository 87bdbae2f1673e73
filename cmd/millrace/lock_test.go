package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
)

// Every address is tried before anything starts, and an error names the flag to change.
func TestAddressesAreCheckedAtStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused := free.Addr().String()
	free.Close()
	f := func(flag, wrong string, args ...string) {
		t.Helper()
		dir := t.TempDir()
		var out bytes.Buffer
		code := start(append([]string{"serve", "--data-dir", dir + "/data", "--tls-cert", dir + "/none.pem", "--tls-key", dir + "/none.key"}, args...),
			&console{out: &out, err: &out})
		if code != 1 || !strings.Contains(out.String(), "--"+flag) || !strings.Contains(out.String(), wrong) {
			t.Errorf("%v: code %d, %s", args, code, out.String())
		}
		for _, other := range []string{"http-addr", "mqtt-addr", "mqtt-tls-addr"} {
			if other != flag && wrong != "same address" && strings.Contains(out.String(), "--"+other) {
				t.Errorf("%v: names --%s as well: %s", args, other, out.String())
			}
		}
	}
	at := taken.Addr().String()
	f("http-addr", at, "--http-addr", at, "--mqtt-addr", "127.0.0.1:0", "--mqtt-tls-addr", "127.0.0.1:0")
	f("mqtt-addr", at, "--http-addr", "127.0.0.1:0", "--mqtt-addr", at, "--mqtt-tls-addr", "127.0.0.1:0")
	f("mqtt-tls-addr", at, "--http-addr", "127.0.0.1:0", "--mqtt-addr", "127.0.0.1:0", "--mqtt-tls-addr", at)
	f("mqtt-tls-addr", at, "--http-addr", "127.0.0.1:0", "--mqtt-addr", "off", "--mqtt-tls-addr", at)
	f("mqtt-addr", "same address", "--http-addr", unused, "--mqtt-addr", unused, "--mqtt-tls-addr", "127.0.0.1:0")
	f("tls-cert", "none.pem", "--http-addr", "127.0.0.1:0", "--mqtt-addr", "127.0.0.1:0", "--mqtt-tls-addr", "127.0.0.1:0")
}

// A client CA needs the server's certificate and no more.
func TestClientCA(t *testing.T) {
	f := func(ok bool, args ...string) {
		t.Helper()
		if _, err := parse(t, append([]string{"serve"}, args...)...); (err == nil) != ok {
			t.Errorf("%v: %v", args, err)
		}
	}
	f(true, "--mqtt-tls-client-ca", "ca.pem", "--tls-cert", "c.pem", "--tls-key", "k.pem")
	f(true, "--mqtt-tls-client-ca", "ca.pem", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--mqtt-addr", "off")
	f(false, "--mqtt-tls-client-ca", "ca.pem")
	f(false, "--mqtt-tls-client-ca", "ca.pem", "--mqtt-addr", "off")
}

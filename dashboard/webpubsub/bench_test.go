package webpubsub

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dashboard/webpubsub/access"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/fanout/hub"
)

// clientsVariable makes the test program be the clients of a benchmark, so that their work is not counted as the server's.
const clientsVariable = "MILLRACE_BENCH_CLIENTS"

func TestMain(m *testing.M) {
	if spec := os.Getenv(clientsVariable); spec != "" {
		if err := readers(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// readers opens connections that read what comes, until standard input ends.
func readers(spec string) error {
	parts := strings.Fields(spec) // address, number, subprotocol, token
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return err
	}
	key := base64.StdEncoding.EncodeToString(make([]byte, 16))
	for range n {
		c, err := net.Dial("tcp", parts[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(c, "GET /client/hubs/bench?access_token=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
			parts[3], parts[0], key, parts[2])
		r := bufio.NewReaderSize(c, 4096)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("handshake: %v, %v", res, err)
		}
		go func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// cpu is the time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkGroup is the CPU of the server for each delivery of a 200-byte message to a group of 1,000 members over real sockets, when as
// much is published as goes out: messages that wait for the same connection leave in one write.
func BenchmarkGroup(b *testing.B) {
	for _, name := range []string{protocol.JSON, protocol.Protobuf} {
		b.Run(name, func(b *testing.B) {
			const members, inFlight = 1000, 200
			s := serve(b, Config{})
			token, err := access.Sign(testKey, access.Grant{Endpoint: s.base, Path: "/client/hubs/bench", Groups: []string{"g"}, Life: time.Hour}, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			u, _ := url.Parse(s.base)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), clientsVariable+"="+strings.Join([]string{u.Host, strconv.Itoa(members), name, token}, " "))
			child.Stderr = os.Stderr
			in, _ := child.StdinPipe()
			out, _ := child.StdoutPipe()
			if err := child.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() {
				in.Close()
				_ = child.Wait()
			}()
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				b.Fatal(line, err)
			}
			h := s.e.Hubs().Hub("bench")
			data := hub.Data{Kind: hub.Text, Bytes: []byte(strings.Repeat("x", 200))}
			delivered := func() uint64 { return s.e.Hubs().Stats().Delivered }
			before, busy, start := delivered(), cpu(b), time.Now()
			sent := uint64(0)
			for b.Loop() {
				for sent*members > delivered()-before+inFlight*members {
					time.Sleep(50 * time.Microsecond)
				}
				h.SendGroup(&hub.Message{Group: "g", Data: data}, nil, nil)
				sent++
			}
			for delivered()-before < sent*members {
				time.Sleep(50 * time.Microsecond)
			}
			n, took, busyFor := float64(sent*members), time.Since(start), cpu(b)-busy
			b.ReportMetric(float64(busyFor.Nanoseconds())/n, "cpu-ns/delivery")
			b.ReportMetric(n/busyFor.Seconds()/1e6, "M-deliveries/cpu-s")
			b.ReportMetric(n/took.Seconds()/1e6, "M-deliveries/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

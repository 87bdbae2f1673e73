package broker

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/ingest"
	"millrace/ingest/spine"
)

// counter counts what the pipeline has taken.
type counter struct {
	*ingest.Pipeline
	n atomic.Int64
}

func (c *counter) Handle(m *ingest.Message, done func(error)) int {
	n := c.Pipeline.Handle(m, done)
	c.n.Add(1)
	return n
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPublish is a five-metric message from the socket through the pipeline into the embedded spine, on disk at the end.
// cpu-ns/op is of the whole process, the client's writes of many messages at once included.
func BenchmarkPublish(b *testing.B) {
	for qos, name := range []string{"QoS0", "QoS1"} {
		b.Run(name, func(b *testing.B) {
			s := start(b, nil)
			sp, err := spine.Open(b.Context(), spine.Config{Dir: b.TempDir()}, s.Broker.cat, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			ctx, stop := context.WithCancel(context.Background())
			var running sync.WaitGroup
			running.Go(func() { sp.Run(ctx) })
			defer func() { stop(); running.Wait(); sp.Close() }()
			count := counter{Pipeline: ingest.New(ingest.Config{}, s.Broker.cat, sp)}
			s.Broker.intake = &count
			r := s.raw(4)
			r.sign("press-7", nil)
			var buf bytes.Buffer
			const each = 200
			for id := range uint16(each) {
				pk := publishPacket("devices/press-7/telemetry", `{"temp":21.5,"speed":1200,"torque":3.25,"on":true,"count":77}`, byte(qos), id+1)
				if qos == 0 {
					pk.PacketID = 0
				}
				pk.ProtocolVersion = 4
				if err := pk.PublishEncode(&buf); err != nil {
					b.Fatal(err)
				}
			}
			if qos > 0 {
				go discard(r.c)
			}
			b.ReportAllocs()
			from := cpu()
			b.ResetTimer()
			for sent := 0; sent < b.N; sent += each {
				if _, err := r.c.Write(buf.Bytes()); err != nil {
					b.Fatal(err)
				}
			}
			total := int64((b.N + each - 1) / each * each)
			for count.n.Load() < total || sp.Stats().Waiting > 0 {
				time.Sleep(100 * time.Microsecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-from)/float64(total), "cpu-ns/op")
		})
	}
}

func discard(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

func BenchmarkAck(b *testing.B) {
	c := &conn{version: 4}
	k := &ack{packet: 7, qos: 1}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendAck(buf[:0], k, c)
	}
	if len(buf) != 4 || buf[0] != packets.Puback<<4 {
		b.Fatalf("%x", buf)
	}
}

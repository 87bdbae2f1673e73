package spine

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"millrace/devices"
)

// crashChild appends samples as fast as it can until it is killed, and prints the number of each that was acknowledged. Its
// numbers go on from MILLRACE_CRASH_FROM. Series and value together are the number.
func crashChild(dir string) {
	from, err := strconv.Atoi(os.Getenv("MILLRACE_CRASH_FROM"))
	if err != nil {
		panic(err)
	}
	s, err := Open(context.Background(), Config{Dir: dir, Shards: 2}, book{}, quiet)
	if err != nil {
		fmt.Println("fault", err)
		os.Exit(1)
	}
	go func() { _ = s.Run(context.Background()) }()
	fmt.Println("ready")
	for {
		var sent sync.WaitGroup
		for range 50 {
			n := from
			from++
			sent.Add(1)
			s.Enqueue([]devices.Sample{{Series: devices.SeriesID(n%100 + 1), At: int64(n), Recv: int64(n), Value: float64(n)}}, func(err error) {
				if err == nil {
					fmt.Println(n) // one write: what the parent reads was acknowledged before the kill
				}
				sent.Done()
			})
		}
		sent.Wait()
	}
}

// TestAcknowledgedSurvivesKill kills a process that appends, again and again on the same directory, and then finds everything
// that it acknowledged. MILLRACE_KILLS says how often; make soak asks for many.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	kills := 5
	if s := os.Getenv("MILLRACE_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	dir := t.TempDir()
	acknowledged := make(map[int]bool)
	from := 1
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MILLRACE_CRASH_DIR="+dir, "MILLRACE_CRASH_FROM="+strconv.Itoa(from))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("child: %q", lines.Text())
		}
		timer := time.AfterFunc(time.Duration(20+rand.IntN(300))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				continue // the last line was cut
			}
			acknowledged[n] = true
			from = max(from, n)
		}
		timer.Stop()
		_ = cmd.Wait() // killed
		from += 1000   // those under way may have been stored
	}
	if len(acknowledged) < kills {
		t.Fatalf("only %d acknowledged", len(acknowledged))
	}
	s, _ := open(t, Config{Dir: dir})
	var got log
	r, stop := read(t, s, 0, &got)
	wait(t, r.CaughtUp(), "caught up after the last kill")
	stop()
	times := make(map[int]int)
	for _, x := range got.samples {
		n := int(x.Value)
		times[n]++
		if x.At != int64(n) || x.Series != devices.SeriesID(n%100+1) {
			t.Fatalf("read %+v", x)
		}
	}
	missing := 0
	for n := range acknowledged {
		if times[n] == 0 {
			missing++
		}
		if times[n] > 1 {
			t.Errorf("%d is there %d times", n, times[n])
		}
	}
	t.Logf("%d kills, %d acknowledged, %d read, %d missing", kills, len(acknowledged), len(got.samples), missing)
	if missing > 0 {
		t.Errorf("%d acknowledged samples are missing", missing)
	}
}

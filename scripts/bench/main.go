// Command bench runs the benchmarks behind the budgets of the design and prints each budget with the figure measured beside it.
// A figure that is a count or a ratio and misses its budget ends it with an error; times are only shown, as machines are shared
// and noisy. That offering allocates nothing a sample is asserted by the tests of fanout: the benchmark also cuts ticks.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A budget is one line of the table.
type budget struct {
	what      string
	pkg       string
	benchmark string // its name, as far as the first slash or dash
	unit      string
	most      float64 // 0: told, without a budget
	hard      bool    // a count or ratio
}

var budgets = []budget{
	{"engine, a sample offered (10,000 series, 100 groups)", "fanout", "BenchmarkOffer", "ns/sample", 50, false},
	{"five-metric JSON payload to samples", "ingest/codec", "BenchmarkDecodeJSON", "ns/op", 400, false},
	{"five-metric JSON payload, allocations", "ingest/codec", "BenchmarkDecodeJSON", "allocs/op", 0, true},
	{"MQTT message (5 metrics) through the embedded broker into the spine, QoS 0, CPU", "ingest/broker", "BenchmarkPublish", "cpu-ns/op", 4000, false},
	{"CPU a frame delivered / one write(2) of its bytes", "dashboard/live", "BenchmarkDeliver", "ratio", 1.2, false},
	{"memory an idle viewer connection", "dashboard/live", "BenchmarkIdleViewer", "B/conn", 11 << 10, false},
	{"bytes a changed series in a frame, with envelope", "fanout/wire", "BenchmarkEncodeBinary", "bytes/series", 20, true},
	{"spine, samples a second made durable (5 a message)", "ingest/spine", "BenchmarkSpineAppend", "samples/s", 0, false},
	{"history, bytes on disk a sample (10 Hz, two decimals, with indexes), fresh chunks of 60", "devices/history", "BenchmarkBytes", "B-fresh/sample", 4, true},
	{"history, bytes on disk a sample, compacted to 600", "devices/history", "BenchmarkBytes", "B-compacted/sample", 1.5, true},
	{"history, bytes on disk a sample: compacted / as a row", "devices/history", "BenchmarkBytes", "ratio", 0.05, true},
	{"history, CPU of PostgreSQL a sample: in chunks / as a row by COPY", "devices/history", "BenchmarkPostgresCPU", "ratio", 0.05, true},
	{"history, a sample from the spine into the database", "devices/history", "BenchmarkWriter", "ns/sample", 0, false},
	{"engine, memory a subscription", "fanout", "BenchmarkSubscription", "bytes/subscription", 0, false},
}

// runs of each benchmark; the median counts.
const runs = 5

var line = regexp.MustCompile(`^((Benchmark\w+)\S*)\s+\d+\s+(.*)$`)

// measure runs the benchmarks of a package and returns their figures by benchmark and unit; each the median of the runs.
func measure(pkg string, names []string) (map[string]map[string]float64, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^("+strings.Join(names, "|")+")$", "-benchmem", "-benchtime", "1s",
		"-count", strconv.Itoa(runs), "./"+pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, out)
	}
	all := map[string]map[string][]float64{}
	first := map[string]string{}
	for text := range strings.Lines(string(out)) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			continue
		}
		name, full := m[2], m[1]
		if first[name] == "" {
			first[name], all[name] = full, map[string][]float64{}
		}
		if first[name] != full {
			continue // of sub-benchmarks the first counts
		}
		fields := strings.Fields(m[3])
		for i := 0; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", text, err)
			}
			all[name][fields[i+1]] = append(all[name][fields[i+1]], v)
		}
	}
	found := map[string]map[string]float64{}
	for name, units := range all {
		found[name] = map[string]float64{}
		for unit, figures := range units {
			slices.Sort(figures)
			found[name][unit] = figures[len(figures)/2]
		}
	}
	return found, nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	names := map[string][]string{}
	for _, b := range budgets {
		names[b.pkg] = append(names[b.pkg], b.benchmark)
	}
	found := map[string]map[string]map[string]float64{}
	missed := 0
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "what\tbudget\tmeasured\tunit\t\t")
	for _, b := range budgets {
		if found[b.pkg] == nil {
			figures, err := measure(b.pkg, names[b.pkg])
			if err != nil {
				return err
			}
			found[b.pkg] = figures
		}
		figure, ok := found[b.pkg][b.benchmark][b.unit]
		if !ok {
			return fmt.Errorf("%s of %s printed no %s", b.benchmark, b.pkg, b.unit)
		}
		limit, verdict := "-", ""
		if b.most > 0 || b.hard {
			limit, verdict = strconv.FormatFloat(b.most, 'f', -1, 64), "ok"
			if figure > b.most {
				verdict = "over"
				if b.hard {
					missed++
				}
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%.4g\t%s\t%s\t\n", b.what, limit, figure, b.unit, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if missed > 0 {
		return fmt.Errorf("%d budgets that are counts are missed", missed)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// report is the result of a run. Times are milliseconds.
type report struct {
	Seconds         float64 `json:"seconds"`
	Messages        uint64  `json:"messages"`
	MessagesPerS    float64 `json:"messagesPerSecond"`
	SamplesPerS     float64 `json:"samplesPerSecond"`
	Acknowledged    uint64  `json:"acknowledged"`
	PublishedBytes  uint64  `json:"publishedBytes"`
	Viewers         int     `json:"viewers"`
	FramesPerS      float64 `json:"framesPerSecond"` // of all viewers
	FrameBytes      float64 `json:"bytesPerFrame"`
	ViewerBytesPerS float64 `json:"viewerBytesPerSecond"`
	Measured        uint64  `json:"freshnessMeasured"` // points
	P50             float64 `json:"freshnessP50Ms"`
	P99             float64 `json:"freshnessP99Ms"`
	Expected        uint64  `json:"samplesExpected"` // by all viewers together
	Missing         uint64  `json:"samplesMissing"`
	Surplus         uint64  `json:"samplesTwice"`
	Gaps            uint64  `json:"gaps"`
	Resumes         uint64  `json:"resumes"`
	Resets          uint64  `json:"resets"` // resumes that were answered by a snapshot: what came in between is not counted
	Spikes          uint64  `json:"spikesExpected"`
	SpikesMissing   uint64  `json:"spikesMissing"`
	ServerCores     float64 `json:"serverCores"`
	ServerBytes     uint64  `json:"serverResidentBytes"`
	ServerGrown     int64   `json:"serverGrownBytes"`
	ServerPeak      uint64  `json:"serverPeakBytes"`  // in the second half of what follows --settle; 0: not measured
	ServerCrept     int64   `json:"serverCreptBytes"` // by which that is above the peak of the first half
	OwnCores        float64 `json:"loadgenCores"`
}

func evaluate(o options, f *fleet, viewers []*viewer, lasted time.Duration, before, after usage, own time.Duration) *report {
	s := lasted.Seconds()
	r := &report{Seconds: s, Messages: f.messages.Load(), Acknowledged: f.acknowledged.Load(), PublishedBytes: f.bytes.Load(), Viewers: len(viewers),
		ServerCores: (after.cpu - before.cpu).Seconds() / s, ServerBytes: after.resident, ServerGrown: int64(after.resident) - int64(before.resident),
		OwnCores: own.Seconds() / s}
	r.MessagesPerS = float64(r.Messages) / s
	r.SamplesPerS = r.MessagesPerS * float64(o.Metrics)
	var frames, bytes uint64
	var fresh histogram
	for _, v := range viewers {
		frames += v.frames.Load()
		bytes += v.bytes.Load()
		fresh.merge(&v.fresh)
		r.Gaps += v.gaps
		r.Resumes += v.resumes
		r.Resets += v.resets
		want, seen := f.published(v.group), v.seen.Load()
		r.Expected += want
		if seen < want {
			r.Missing += want - seen
		} else {
			r.Surplus += seen - want
		}
		for i, d := range f.devices {
			if f.site.group(i) != v.group {
				continue
			}
			for m, last := range d.spikes {
				if last == 0 {
					continue
				}
				r.Spikes++
				if v.spikes[fmt.Sprintf("%s/m%d", f.site.ids[i], m)] != last {
					r.SpikesMissing++
				}
			}
		}
	}
	r.FramesPerS, r.ViewerBytesPerS = float64(frames)/s, float64(bytes)/s
	r.FrameBytes = float64(bytes) / float64(max(frames, 1))
	r.Measured = fresh.total
	r.P50, r.P99 = fresh.quantile(0.50), fresh.quantile(0.99)
	return r
}

func (r *report) print(w io.Writer) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("intake", "%.0f messages/s, %.0f samples/s, %.2f MB/s; %d messages in %.1f s", r.MessagesPerS, r.SamplesPerS, float64(r.PublishedBytes)/r.Seconds/1e6, r.Messages, r.Seconds)
	if r.Acknowledged > 0 {
		line("", "%d of them acknowledged", r.Acknowledged)
	}
	line("viewers", "%d; %.0f frames/s together, %.1f each; %.0f bytes a frame, %.2f MB/s", r.Viewers, r.FramesPerS, r.FramesPerS/float64(max(r.Viewers, 1)), r.FrameBytes, r.ViewerBytesPerS/1e6)
	line("freshness", "p50 %.0f ms, p99 %.0f ms (measured at the device until received by the viewer)", r.P50, r.P99)
	line("loss", "%d of %d samples missing, %d counted twice, %d gaps; %d resumes, %d answered by a snapshot", r.Missing, r.Expected, r.Surplus, r.Gaps, r.Resumes, r.Resets)
	if r.Spikes > 0 {
		line("spikes", "%d of %d not shown", r.SpikesMissing, r.Spikes)
	}
	line("server", "%.2f cores, %.0f MB resident (%+.1f MB)", r.ServerCores, float64(r.ServerBytes)/1e6, float64(r.ServerGrown)/1e6)
	if r.ServerPeak > 0 {
		line("", "at most %.0f MB after it had levelled out, %+.1f MB from the first half of that time to the second", float64(r.ServerPeak)/1e6, float64(r.ServerCrept)/1e6)
	}
	line("loadgen", "%.2f cores", r.OwnCores)
}

// verdict compares the result with what was asked for.
func (r *report) verdict(o options) error {
	var all []error
	if o.Lossless && (r.Missing > 0 || r.Surplus > 0 || r.Gaps > 0 || r.SpikesMissing > 0) {
		all = append(all, errors.New("samples or spikes are missing or there twice"))
	}
	if o.Lossless && r.Expected == 0 {
		all = append(all, errors.New("nothing was published that a viewer could miss"))
	}
	if o.MaxGrowth > 0 && r.ServerPeak == 0 {
		all = append(all, errors.New("the server's memory could not be measured"))
	} else if o.MaxGrowth > 0 && r.ServerCrept > int64(o.MaxGrowth) {
		all = append(all, fmt.Errorf("the server's memory went on growing, by %d bytes", r.ServerCrept))
	}
	if o.MaxP99 > 0 && r.Measured == 0 {
		all = append(all, errors.New("freshness could not be measured"))
	}
	if o.MaxP99 > 0 && r.P99 > float64(o.MaxP99.Milliseconds()) {
		all = append(all, fmt.Errorf("freshness p99 is %.0f ms, more than %v", r.P99, o.MaxP99))
	}
	return errors.Join(all...)
}

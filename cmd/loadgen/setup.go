package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/cmd/internal/client"
	"millrace/devices"
)

// site is what the load needs of the server: devices with their tokens, spread over groups.
type site struct {
	client *client.Client
	groups []devices.GroupPath
	ids    []devices.ID
	tokens []string
}

// group returns the index of a device's group.
func (s *site) group(device int) int { return device % len(s.groups) }

// prepare makes groups and devices, or gives those that are there a new token.
func prepare(ctx context.Context, o options) (*site, error) {
	c, err := client.New(o.Server, o.Token)
	if err != nil {
		return nil, err
	}
	s := &site{client: c, ids: make([]devices.ID, o.Devices), tokens: make([]string, o.Devices)}
	for i := range o.Groups {
		g := devices.Group{Path: devices.GroupPath(fmt.Sprintf("%s/group-%d", o.Prefix, i)), Label: fmt.Sprintf("Load, group %d", i)}
		if err := c.CreateGroup(ctx, g); err != nil && !errors.Is(err, devices.ErrExists) {
			return nil, err
		}
		s.groups = append(s.groups, g.Path)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range todo {
				if err := s.device(ctx, o, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for i := range o.Devices {
		select {
		case todo <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(todo)
	workers.Wait()
	return s, context.Cause(ctx)
}

func (s *site) device(ctx context.Context, o options, i int) error {
	d := devices.Device{ID: devices.ID(fmt.Sprintf("%s-%04d", o.Prefix, i)), Type: "load", Groups: []devices.GroupPath{s.groups[s.group(i)]}}
	token, err := s.client.CreateDevice(ctx, d)
	if errors.Is(err, devices.ErrExists) {
		token, err = s.client.CreateCredential(ctx, d.ID)
		if err == nil {
			in := map[string]any{"groups": d.Groups} // as many groups as this time
			err = s.client.Do(ctx, http.MethodPatch, "/api/v1/devices/"+string(d.ID), in, nil)
		}
	}
	s.ids[i], s.tokens[i] = d.ID, token
	return err
}

// clean deletes what prepare made.
func (s *site) clean(ctx context.Context, o options) error {
	var all []error
	for _, id := range s.ids {
		all = append(all, s.client.Do(ctx, http.MethodDelete, "/api/v1/devices/"+string(id), nil, nil))
	}
	all = append(all, s.client.Do(ctx, http.MethodDelete, "/api/v1/groups/"+o.Prefix, nil, nil))
	return errors.Join(all...)
}

// usage is what the server has cost so far; zero where it can't be told.
type usage struct {
	cpu      time.Duration // since it started
	resident uint64        // bytes
}

// usage reads /proc for a local process, else the server's /metrics.
func (s *site) usage(ctx context.Context, pid int) (u usage) {
	if pid > 0 {
		return processUsage(pid)
	}
	var text []byte
	if s.client.Do(ctx, http.MethodGet, "/metrics", nil, &text) != nil {
		return u
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_cpu_seconds_total":
			u.cpu = time.Duration(f * float64(time.Second))
		case "process_resident_memory_bytes":
			u.resident = uint64(f)
		}
	}
	return u
}

// memory is the peak of the server's memory in the first and in the second half of the time after it was to settle. It rises and
// falls with garbage, so single values say little.
type memory struct{ peaks [2]uint64 }

// watch fills it until ctx ends.
func (m *memory) watch(ctx context.Context, s *site, o options) {
	watched := o.Duration - o.Settle
	if watched <= 0 {
		return
	}
	begin := time.Now().Add(o.Settle)
	tick := time.NewTicker(min(watched/20+1, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if past := now.Sub(begin); past >= 0 {
				half := &m.peaks[min(int(2*past/watched), 1)]
				*half = max(*half, s.usage(ctx, o.Pid).resident)
			}
		}
	}
}

// processUsage reads /proc/pid/stat: utime and stime are fields 14 and 15 in ticks of 1/100 s, rss field 24 in pages (proc(5)).
func processUsage(pid int) (u usage) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // the name before may hold spaces
	if len(fields) < 22 {
		return u
	}
	number := func(i int) uint64 { n, _ := strconv.ParseUint(fields[i-3], 10, 64); return n }
	return usage{cpu: time.Duration(number(14)+number(15)) * 10 * time.Millisecond, resident: number(24) * uint64(os.Getpagesize())}
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

package inventory

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"millrace/devices"
)

// throttle slows down who guesses passwords: each wrong guess costs a token of the e-mail's bucket and of the address's, which
// fill slowly. At most about maxBuckets are remembered; beyond that only the empty ones are.
type throttle struct {
	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

const (
	emailBurst, emailRefill = 10, 30 * time.Second
	addrBurst, addrRefill   = 50, 5 * time.Second
	maxBuckets              = 20_000
)

// take pays for a guess, before it is known whether it is right, so that guesses at the same time all count. refund gives it
// back. ErrRate: nothing left.
func (t *throttle) take(now time.Time, email, ip string) (refund func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buckets == nil || len(t.buckets) > maxBuckets {
		kept := make(map[string]bucket)
		for key, b := range t.buckets {
			if b.left < 1 && len(kept) < maxBuckets/2 {
				kept[key] = b
			}
		}
		t.buckets = kept
	}
	email, addr := "e "+email, "a "+network(ip)
	byEmail, byAddr := t.fill(email, now, emailBurst, emailRefill), t.fill(addr, now, addrBurst, addrRefill)
	if byEmail.left < 1 || byAddr.left < 1 {
		return nil, fmt.Errorf("too many wrong passwords, wait a little: %w", devices.ErrRate)
	}
	byEmail.left--
	byAddr.left--
	t.buckets[email], t.buckets[addr] = byEmail, byAddr
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.give(email)
		t.give(addr)
	}, nil
}

func (t *throttle) fill(key string, now time.Time, burst float64, refill time.Duration) bucket {
	b, ok := t.buckets[key]
	if !ok {
		return bucket{burst, now}
	}
	return bucket{min(burst, b.left+max(0, float64(now.Sub(b.at))/float64(refill))), now}
}

func (t *throttle) give(key string) {
	if b, ok := t.buckets[key]; ok {
		b.left++
		t.buckets[key] = b
	}
}

// network is what one guesser holds of addresses: all of an IPv6 /64.
func network(ip string) string {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

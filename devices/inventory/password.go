package inventory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"millrace/devices"
)

// cost of a password hash.
type cost struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// present is what new hashes cost: the second recommendation of OWASP's Password Storage Cheat Sheet for argon2id.
var present = cost{memory: 19 << 10, time: 2, threads: 1}

const (
	hashesAtOnce = 2    // so that a flood of sign-ins takes neither all memory nor all cores
	maxPassword  = 1024 // bytes
)

// hashPassword checks a new password and returns its argon2id hash in PHC format.
func (v *Inventory) hashPassword(ctx context.Context, password string) (string, error) {
	switch {
	case len(password) < devices.MinPassword:
		return "", devices.Invalid("password", "must have at least %d characters", devices.MinPassword)
	case len(password) > maxPassword:
		return "", devices.Invalid("password", "is longer than %d bytes", maxPassword)
	case !utf8.ValidString(password):
		return "", devices.Invalid("password", "is not UTF-8")
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	sum, err := v.argon(ctx, password, salt, present, 32)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, present.memory, present.time, present.threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// checkPassword reports whether a password has this hash. An empty hash costs as much as one that does not fit.
func (v *Inventory) checkPassword(ctx context.Context, phc, password string) (bool, error) {
	c, salt, want, ok := parsePHC(phc)
	if !ok {
		c, salt, want = present, make([]byte, 16), make([]byte, 32)
	}
	if len(password) > maxPassword {
		return false, nil
	}
	got, err := v.argon(ctx, password, salt, c, uint32(len(want)))
	return err == nil && ok && subtle.ConstantTimeCompare(got, want) == 1, err
}

// argon waits for its turn.
func (v *Inventory) argon(ctx context.Context, password string, salt []byte, c cost, size uint32) ([]byte, error) {
	select {
	case v.hashing <- struct{}{}:
		defer func() { <-v.hashing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: too many are signing in: %w", devices.ErrUnavailable, ctx.Err())
	}
	return argon2.IDKey([]byte(password), salt, c.time, c.memory, c.threads, size), nil
}

func parsePHC(phc string) (c cost, salt, sum []byte, ok bool) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, false
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.time, &c.threads); n != 3 || err != nil {
		return c, nil, nil, false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	sum, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	return c, salt, sum, err1 == nil && err2 == nil && len(sum) >= 16 && c.time > 0 && c.threads > 0 && c.memory <= 1<<20
}

// Beginnings of secrets, so that people and scanners recognise them.
const (
	deviceTokenPrefix = "mrd_"
	apiTokenPrefix    = "mrt_"
)

// newSecret makes a token of 32 random letters and digits (190 bits).
func newSecret(prefix string) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secret := []byte(prefix)
	var random [64]byte
	for len(secret) < len(prefix)+32 {
		rand.Read(random[:])
		for _, b := range random {
			if b < 4*62 && len(secret) < len(prefix)+32 { // above, the first letters would come more often
				secret = append(secret, letters[b%62])
			}
		}
	}
	return string(secret)
}

// hash is how a secret is stored and found. Fast is enough, as secrets are long and random.
func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func hint(secret string) string { return secret[len(secret)-4:] }

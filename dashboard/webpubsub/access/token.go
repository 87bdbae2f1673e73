// Package access makes and checks the tokens of Azure Web PubSub: JWTs signed with an access key (HS256), for clients that connect, for
// requests to the REST API and for server connections; and the tokens with which a reliable client comes back.
package access

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// skew is how far clocks may be apart.
const skew = 5 * time.Minute

// maxToken is the longest token in bytes that is looked at.
const maxToken = 16 << 10

// A Verifier checks tokens.
type Verifier struct {
	Keys      func() (primary, secondary string) // the token may be signed with either
	Endpoints []string                           // addresses of this server beside that of the request
	Now       func() time.Time                   // nil: time.Now
}

// Claims are what a client's token says.
type Claims struct {
	User    string
	HasUser bool
	Roles   []string
	Groups  []string
	All     map[string][]string // every claim, for connect handlers
	Expires time.Time
}

// Client checks the token of a client that connects to a path of the server at base.
func (v *Verifier) Client(token, base, path string) (*Claims, error) {
	all, audiences, err := v.parse(token)
	if err != nil {
		return nil, err
	}
	if !v.meant(audiences, base, path, exact) {
		return nil, fmt.Errorf("it is for another audience than %s", strings.TrimSuffix(base, "/")+path)
	}
	c := &Claims{All: map[string][]string{}}
	for name, value := range all {
		c.All[name] = flatten(nil, value, 0)
	}
	if sub := c.All["sub"]; len(sub) > 0 && sub[0] != "" {
		c.User, c.HasUser = sub[0], true
	}
	c.Roles = c.All["role"]
	c.Groups = append(slices.Clone(c.All["webpubsub.group"]), c.All["group"]...)
	if exp, err := all.GetExpirationTime(); err == nil && exp != nil {
		c.Expires = exp.Time
	}
	return c, nil
}

// REST checks the token of a request. Its audience may go on after the path, since most clients sign the query too.
func (v *Verifier) REST(token, base, path string) error {
	if token == "" {
		return errors.New("there is no token")
	}
	_, audiences, err := v.parse(token)
	if err == nil && !v.meant(audiences, base, path, beginning) {
		err = fmt.Errorf("it is for another audience than %s", strings.TrimSuffix(base, "/")+path)
	}
	return err
}

// Tunnel checks the token of a server connection, and returns its subject.
func (v *Verifier) Tunnel(token, base, path string) (sub string, err error) {
	if err := v.REST(token, base, path); err != nil {
		return "", err
	}
	all, _, err := v.parse(token)
	if err != nil {
		return "", err
	}
	sub, _ = all.GetSubject()
	return sub, nil
}

// parse checks signature and lifetime.
func (v *Verifier) parse(token string) (jwt.MapClaims, []string, error) {
	if len(token) > maxToken {
		return nil, nil, errors.New("it is too long")
	}
	now := v.Now
	if now == nil {
		now = time.Now
	}
	primary, secondary := v.Keys()
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithLeeway(skew), jwt.WithTimeFunc(now))
	all := jwt.MapClaims{}
	_, err := parser.ParseWithClaims(token, all, func(*jwt.Token) (any, error) {
		set := jwt.VerificationKeySet{}
		for _, k := range []string{primary, secondary} {
			if k != "" {
				set.Keys = append(set.Keys, []byte(k))
			}
		}
		return set, nil
	})
	if err != nil {
		return nil, nil, err
	}
	audiences, err := all.GetAudience()
	if err != nil {
		return nil, nil, err
	}
	return all, audiences, nil
}

// How a path is compared.
const (
	exact     = false
	beginning = true // what follows after a boundary does not matter
)

// meant reports whether an audience is a path of this server.
func (v *Verifier) meant(audiences []string, base, path string, prefix bool) bool {
	bases := append(slices.Clone(v.Endpoints), base)
	return slices.ContainsFunc(audiences, func(a string) bool {
		for _, b := range bases {
			want := location(b) + path
			for _, have := range []string{a, unescape(a)} {
				for _, wanted := range []string{want, unescape(want)} {
					if same(location(have), wanted, prefix) {
						return true
					}
				}
			}
		}
		return false
	})
}

// location is a URL without its scheme, of which it must have one that we speak, without the port that the scheme has anyway (Python
// writes it, JavaScript does not), and without a slash at its end.
func location(u string) string {
	for scheme, port := range map[string]string{"http://": ":80", "https://": ":443", "ws://": ":80", "wss://": ":443"} {
		if len(u) > len(scheme) && strings.EqualFold(u[:len(scheme)], scheme) {
			rest := u[len(scheme):]
			host := rest
			if end := strings.IndexAny(rest, "/?"); end >= 0 {
				host = rest[:end]
			}
			return strings.TrimSuffix(strings.TrimSuffix(host, port)+rest[len(host):], "/")
		}
	}
	return "\x00" // equal to nothing
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

func same(have, want string, prefix bool) bool {
	want = strings.TrimSuffix(want, "/")
	if strings.EqualFold(have, want) {
		return true
	}
	return prefix && len(have) > len(want) && strings.EqualFold(have[:len(want)], want) && (have[len(want)] == '?' || have[len(want)] == '/')
}

// flatten makes strings of a claim: of an array one for each of its values.
func flatten(dst []string, v any, depth int) []string {
	switch v := v.(type) {
	case nil:
	case string:
		return append(dst, v)
	case bool:
		return append(dst, strconv.FormatBool(v))
	case float64:
		return append(dst, strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		if depth < 4 {
			for _, e := range v {
				dst = flatten(dst, e, depth+1)
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			dst = flatten(dst, v[k], depth+1)
		}
	}
	return dst
}

// A Grant is what a token lets a client do.
type Grant struct {
	Endpoint string // such as http://localhost:8080
	Path     string // such as /client/hubs/chat
	User     string // "": none
	Roles    []string
	Groups   []string
	Life     time.Duration
}

// Sign makes a client's token.
func Sign(key string, g Grant, now time.Time) (string, error) {
	c := jwt.MapClaims{"aud": strings.TrimSuffix(g.Endpoint, "/") + g.Path, "iss": "https://webpubsub.azure.com",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(g.Life).Unix()}
	if g.User != "" {
		c["sub"] = g.User
	}
	if len(g.Roles) > 0 {
		c["role"] = g.Roles
	}
	if len(g.Groups) > 0 {
		c["webpubsub.group"] = g.Groups
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(key))
}

// SignREST makes the token of a request to a URL, query included.
func SignREST(key, target string, life time.Duration, now time.Time) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"aud": target, "iat": now.Unix(), "exp": now.Add(life).Unix()}).SignedString([]byte(key))
}

// Package client speaks to a Millrace server's REST API, as far as the command line and the load generator need it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"millrace/devices"
)

// Client is safe for concurrent use.
type Client struct {
	base  string // scheme://host[:port] without a slash at the end
	token string
	http  *http.Client
}

// New returns a client of the server at an address such as http://localhost:8080, with an API token ("" for none).
func New(server, token string) (*Client, error) {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no server address such as http://localhost:8080", server)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return &Client{
		base:  strings.TrimSuffix(u.Scheme+"://"+u.Host+u.Path, "/"),
		token: token,
		http:  &http.Client{Timeout: 30 * time.Second, Transport: transport},
	}, nil
}

// Live is the address of the live WebSocket.
func (c *Client) Live() string { return "ws" + strings.TrimPrefix(c.base, "http") + "/live" }

// Problem is an error answer (RFC 9457). It unwraps to the domain's error for its status.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	what   string
}

func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if text == "" {
		text = http.StatusText(p.Status)
	}
	return fmt.Sprintf("%s: %s (%d)", p.what, text, p.Status)
}

func (p *Problem) Unwrap() error {
	switch p.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return devices.ErrInvalid
	case http.StatusUnauthorized:
		return devices.ErrUnauthorized
	case http.StatusForbidden:
		return devices.ErrForbidden
	case http.StatusNotFound:
		return devices.ErrNotFound
	case http.StatusConflict:
		return devices.ErrExists
	case http.StatusRequestEntityTooLarge:
		return devices.ErrTooLarge
	case http.StatusTooManyRequests:
		return devices.ErrRate
	}
	return devices.ErrUnavailable
}

// Do sends in as JSON (nil: no body; []byte: as it is) and reads the answer into out (nil: it is dropped; *[]byte: as it is).
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if raw, ok := in.([]byte); ok {
		body = bytes.NewReader(raw)
	} else if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode >= 300 {
		p := &Problem{what: method + " " + path}
		_ = json.Unmarshal(answer, p) // what is no problem+json is told by its status
		p.Status = res.StatusCode
		return p
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = answer
		return nil
	default:
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("%s %s: answer is not what was expected: %w", method, path, err)
		}
		return nil
	}
}

// CreateGroup makes a group; devices.ErrExists when it is there.
func (c *Client) CreateGroup(ctx context.Context, g devices.Group) error {
	in := map[string]any{"path": g.Path, "label": g.Label}
	if g.Tick > 0 {
		in["tickMs"] = g.Tick.Milliseconds()
	}
	return c.Do(ctx, http.MethodPost, "/api/v1/groups", in, nil)
}

// CreateDevice makes a device and returns its first token; devices.ErrExists when it is there.
func (c *Client) CreateDevice(ctx context.Context, d devices.Device) (string, error) {
	in := map[string]any{"id": d.ID, "label": d.Label, "type": d.Type, "groups": d.Groups}
	if len(d.Attributes) > 0 {
		in["attributes"] = d.Attributes
	}
	if d.ExpectedInterval > 0 {
		in["expectedIntervalMs"] = d.ExpectedInterval.Milliseconds()
	}
	var out struct{ Token string }
	err := c.Do(ctx, http.MethodPost, "/api/v1/devices", in, &out)
	return out.Token, err
}

// CreateCredential gives a device a further token.
func (c *Client) CreateCredential(ctx context.Context, id devices.ID) (string, error) {
	var out struct{ Token string }
	err := c.Do(ctx, http.MethodPost, "/api/v1/devices/"+url.PathEscape(string(id))+"/credentials", struct{}{}, &out)
	return out.Token, err
}

// Metrics returns the settings of all metrics.
func (c *Client) Metrics(ctx context.Context) ([]devices.Metric, error) {
	var list struct{ Items []devices.Metric }
	err := c.Do(ctx, http.MethodGet, "/api/v1/metrics", nil, &list)
	return list.Items, err
}

// UpdateMetric sets label, unit and limits of a metric.
func (c *Client) UpdateMetric(ctx context.Context, m devices.Metric) error {
	in := map[string]any{"label": m.Label, "unit": m.Unit}
	if m.Low != nil {
		in["low"] = *m.Low
	}
	if m.High != nil {
		in["high"] = *m.High
	}
	return c.Do(ctx, http.MethodPatch, "/api/v1/metrics/"+url.PathEscape(m.Name), in, nil)
}

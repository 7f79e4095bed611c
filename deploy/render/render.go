// Renders the chart as Helm does, as far as this chart goes: templates of Go with sprig's functions,
// `include`, `toYaml`, `fail` and `.Files`. Called by scripts/render-manifest, which makes
// deploy/samepath.yaml of it, and by the tests; Helm itself is in no package of Debian.
//
//	render CHART RELEASE NAMESPACE [KEY=YAML ...]    the values that differ, `agent.config.mesh=true`
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type files string

func (root files) Get(name string) string {
	content, err := os.ReadFile(filepath.Join(string(root), name))
	if err != nil {
		return ""
	}
	return string(content)
}

func (root files) Glob(pattern string) map[string][]byte {
	found := map[string][]byte{}
	paths, _ := filepath.Glob(filepath.Join(string(root), pattern))
	for _, path := range paths {
		name, _ := filepath.Rel(string(root), path)
		found[name] = []byte(root.Get(name))
	}
	return found
}

// The order in which Helm installs kinds, as far as we have them.
var order = []string{
	"Namespace", "ServiceAccount", "Secret", "ConfigMap", "CustomResourceDefinition", "ClusterRole",
	"ClusterRoleBinding", "Role", "RoleBinding", "DaemonSet", "Deployment",
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("CHART RELEASE NAMESPACE [KEY=YAML ...]")
	}
	chart := args[0]
	about, values := map[string]interface{}{}, map[string]interface{}{}
	for name, into := range map[string]*map[string]interface{}{"Chart.yaml": &about, "values.yaml": &values} {
		content, err := os.ReadFile(filepath.Join(chart, name))
		if err != nil {
			return err
		}
		if err := yaml.Unmarshal(content, into); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, arg := range args[3:] {
		key, text, _ := strings.Cut(arg, "=")
		var value interface{}
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		set(values, strings.Split(key, "."), value)
	}
	dot := map[string]interface{}{
		"Values":  values,
		"Chart":   capitals(about),
		"Files":   files(chart),
		"Release": map[string]interface{}{"Name": args[1], "Namespace": args[2], "Service": "Helm"},
	}
	documents, err := render(chart, dot)
	if err != nil {
		return err
	}
	for _, document := range documents {
		fmt.Printf("---\n%s\n", document)
	}
	return nil
}

func render(chart string, dot map[string]interface{}) ([]string, error) {
	all := template.New("").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		var out bytes.Buffer
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		err := encoder.Encode(value)
		return strings.TrimSuffix(out.String(), "\n"), err
	}
	all.Funcs(functions)
	paths, _ := filepath.Glob(filepath.Join(chart, "templates", "*"))
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if _, err := all.New(filepath.Base(path)).Parse(string(content)); err != nil {
			return nil, err
		}
	}
	var documents []string
	for _, path := range paths {
		if filepath.Ext(path) != ".yaml" {
			continue
		}
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, filepath.Base(path), dot); err != nil {
			return nil, err
		}
		for _, document := range strings.Split("\n"+out.String(), "\n---\n") {
			if document = strings.TrimSpace(document); document != "" {
				documents = append(documents, strings.TrimPrefix(document, "---\n"))
			}
		}
	}
	sort.SliceStable(documents, func(i, j int) bool { return rank(documents[i]) < rank(documents[j]) })
	return documents, nil
}

func rank(document string) int {
	var head struct{ Kind string }
	_ = yaml.Unmarshal([]byte(document), &head)
	for index, kind := range order {
		if kind == head.Kind {
			return index
		}
	}
	return len(order)
}

func set(values map[string]interface{}, path []string, value interface{}) {
	for _, key := range path[:len(path)-1] {
		inner, ok := values[key].(map[string]interface{})
		if !ok {
			inner = map[string]interface{}{}
			values[key] = inner
		}
		values = inner
	}
	values[path[len(path)-1]] = value
}

// Helm's .Chart has its fields in Go's spelling: .Chart.AppVersion.
func capitals(about map[string]interface{}) map[string]interface{} {
	found := map[string]interface{}{}
	for key, value := range about {
		found[strings.ToUpper(key[:1])+key[1:]] = value
	}
	return found
}

"""deploy/: what brings the product onto machines of others. VERSION is the product's, the tag of its images."""

import tomllib

from tests.stack import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# What nginx's image brings besides the template, and where a test's may write.
NGINX = """
daemon off;
user root;
worker_processes 2;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include torchserve.conf;
}
"""

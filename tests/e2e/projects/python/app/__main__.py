import sys

print("app", sys.version_info[0], open("/etc/app/settings").read().strip())

import { testShortForm } from '../support/failure-run.ts'

testShortForm('restored-backup')
